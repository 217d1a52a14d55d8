"""The schema of a module and the login of its service."""

from collections.abc import Iterator

from kernel_operator.desired import ModuleState
from kernel_operator.targets.postgres.changes import Change, change, own, rights
from kernel_operator.targets.postgres.observed import Login, Observed
from kernel_operator.targets.postgres.scram import fingerprint, verifier
from kernel_operator.targets.postgres.session import Refused, Statement
from kernel_operator.targets.postgres.tables import CDC

APP = "kernel_app"
PUBLISHER = "kernel_publisher"
CONNECTIONS = 50
"""Connections of one module's service, all replicas together."""

_BEYOND_US = ("SUPERUSER", "CREATEDB", "REPLICATION", "BYPASSRLS")
"""Attributes that only a role with the same attribute may take away."""

_SETTINGS = {
    "search_path": "{schema}",
    "statement_timeout": "30s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
}


def schema_changes(module: ModuleState, observed: Observed) -> Iterator[Change]:
    """The schema, its owner and who may look into it. The login must be there before."""
    what = f"schema {module.schema}"
    wanted = [f"{module.schema}=USAGE"] if module.active else []
    if any(model.analytics for model in module.models):
        wanted.append(f"{CDC}=USAGE")
    found = observed.namespace
    if found is None:
        yield change(f"created {what}", "CREATE SCHEMA %I", module.schema)
        for grant in wanted:
            role, _, privilege = grant.rpartition("=")
            yield change("", f"GRANT {privilege} ON SCHEMA %I TO %I", module.schema, role)
    else:
        yield from own(what, "SCHEMA", found, module.schema, module.schema)
        yield from rights(what, "SCHEMA", found, wanted, module.schema)


def login_changes(module: ModuleState, observed: Observed, password: str) -> Iterator[Change]:
    """The role: exactly the attributes, settings and memberships of a module's login, and its password.

    Raises Refused for what only an administrator can take away.
    """
    role, login = module.schema, observed.login
    if login is None:
        yield change(f"created login {role}", f"CREATE ROLE %I INHERIT CONNECTION LIMIT {CONNECTIONS}", role)
        for group in _groups(module):
            yield change("", f"GRANT {group} TO %I WITH INHERIT TRUE, SET FALSE", role)
        yield from (Change("", step.statements) for step in _settings(role, []))
    else:
        require_ours(role, login)
        yield from _memberships(role, login, _groups(module))
        if (
            not login.attributes["INHERIT"]
            or login.attributes["CREATEROLE"]
            or login.expires
            or (login.connection_limit != CONNECTIONS)
        ):
            attributes = f"INHERIT NOCREATEROLE VALID UNTIL 'infinity' CONNECTION LIMIT {CONNECTIONS}"
            yield change(f"put right the attributes of login {role}", f"ALTER ROLE %I {attributes}", role)
        yield from _settings(role, login.settings)
    if module.active != (login is not None and login.attributes["LOGIN"]):
        clause = "" if login is None else f"{'opened' if module.active else 'closed'} login {role}"
        yield change(clause, f"ALTER ROLE %I {'LOGIN' if module.active else 'NOLOGIN'}", role)
    known = (observed.module or {}).get("login_fingerprint")
    if login is None or known != fingerprint(password):
        clause = "" if login is None else f"set the password of login {role}"
        yield Change(clause, (Statement.of("ALTER ROLE %I PASSWORD %L", role, verifier(password)),))


def require_ours(role: str, login: Login) -> None:
    """Raises Refused for a login that the operator can't put right."""
    excess = [name for name in _BEYOND_US if login.attributes[name]]
    if excess:
        fix = f"ALTER ROLE {role} {' '.join(f'NO{name}' for name in excess)}"
        raise Refused(
            "UnsafeLogin", f"the login {role} is {', '.join(excess)}, which only an administrator can take away: {fix}"
        )
    if not login.managed:
        grant = f"GRANT {role} TO kernel_operator WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
        raise Refused("NotOwned", f"the role {role} was not made by the operator: drop or rename it, or {grant}")


def _groups(module: ModuleState) -> list[str]:
    """Who publishes or consumes events does so in its own transactions, which takes rights on the kernel's tables."""
    return [APP, PUBLISHER] if module.publishes or module.subscribes else [APP]


def _memberships(role: str, login: Login, groups: list[str]) -> Iterator[Change]:
    """``groups`` and no other, so that no way leads to another role's rights."""
    for found in (*login.memberships, *login.members):
        expected = found.role in groups and found.plain and found in login.memberships
        group, member = (found.role, role) if found in login.memberships else (role, found.role)
        if expected:
            continue
        if found.grantor != "kernel_operator":
            raise Refused(
                "UnsafeLogin",
                f"{member} must not be a member of {group}: REVOKE {group} FROM {member} GRANTED BY {found.grantor}",
            )
        yield change(f"took membership in {group} from {member}", "REVOKE %I FROM %I CASCADE", group, member)
    held = {found.role for found in login.memberships if found.plain}
    for group in groups:
        if group not in held:
            yield change(
                f"gave {role} membership in {group}", f"GRANT {group} TO %I WITH INHERIT TRUE, SET FALSE", role
            )


def _settings(role: str, found: list[str]) -> Iterator[Change]:
    wanted = {name: value.format(schema=role) for name, value in _SETTINGS.items()}
    if sorted(found) == sorted(f"{name}={value}" for name, value in wanted.items()):
        return
    statements = [Statement.of("ALTER ROLE %I RESET ALL", role)] if found else []
    statements += [Statement.of(f"ALTER ROLE %I SET {name} = %L", role, value) for name, value in wanted.items()]
    yield Change(f"put right the settings of login {role}", tuple(statements))
