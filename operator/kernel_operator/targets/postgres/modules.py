"""Modules: everything of one module in one transaction, so that a crash leaves the former state.

All of it is read with one question, compared, and what differs is changed by two round trips more.
Modules are changed one after the other (the lock below): several of the server's own catalogue rows
belong to all of them, and DDL that meets there fails.
"""

import json
from dataclasses import asdict
from typing import Any

import asyncpg

from kernel_operator.desired import Model, ModuleState, Outcome, Unavailable
from kernel_operator.targets.postgres.changes import Change
from kernel_operator.targets.postgres.login import login_changes, require_ours, schema_changes
from kernel_operator.targets.postgres.observed import Observed, observe
from kernel_operator.targets.postgres.publications import ensure_publications
from kernel_operator.targets.postgres.scram import fingerprint
from kernel_operator.targets.postgres.session import SYSTEM, Refused, Statement, query, run, transaction
from kernel_operator.targets.postgres.tables import table_changes

ONE_AT_A_TIME = "LOCK TABLE kernel.modules IN SHARE ROW EXCLUSIVE MODE"

_NO_RIGHTS = "DELETE FROM kernel.event_rights WHERE login = $1"

_NAME_BYTES = 63
"""What PostgreSQL keeps of a name; it would cut a longer one without a word."""


async def apply_module(pool: asyncpg.Pool, module: ModuleState, password: str) -> Outcome:
    """Make schema, login, tables, rights and rows of ``module`` as they should be.

    Raises Unavailable; ValueError when ``password`` isn't printable ASCII.
    """
    try:
        async with transaction(pool) as connection:
            await connection.execute(ONE_AT_A_TIME)
            clauses = await ensure_publications(connection)
            observed = await observe(connection, module.slug, module.schema)
            _require_possible(module, observed)
            changes = _changes(module, observed, password)
            await _execute(connection, module, changes)
            clauses += [change.clause for change in changes if change.clause]
            clauses += await _record(connection, module, observed, password)
    except Refused as refused:
        return Outcome(refusal=refused.refusal)
    return Outcome(tuple(clauses))


async def module_holder(pool: asyncpg.Pool, slug: str) -> tuple[str, str, str] | None:
    """To whom the slug belongs: module name, namespace and name of the resource; None when it is free."""
    async with transaction(pool) as connection:
        row = await connection.fetchrow("SELECT module_name, namespace, name FROM kernel.modules WHERE slug = $1", slug)
    return None if row is None else (row["module_name"], row["namespace"], row["name"])


async def remove_module(pool: asyncpg.Pool, slug: str, *, drop_data: bool) -> Outcome:
    """Close the module's login and keep its tables, or drop all of it.

    Harmless when repeated or when nothing is there. Raises Unavailable; also when an administrator has
    to act first, so that nobody takes for dropped what is still there.
    """
    try:
        async with transaction(pool) as connection:
            await connection.execute(ONE_AT_A_TIME)
            row = await connection.fetchrow("SELECT * FROM kernel.modules WHERE slug = $1", slug)
            if row is None:
                return Outcome()
            name = f"module_{slug}"
            observed = await observe(connection, slug, name)
            if observed.login and not observed.login.managed:
                require_ours(name, observed.login)
            if drop_data:
                return await _drop(connection, slug, name, observed)
            return await _close(connection, slug, name, observed)
    except Refused as refused:
        raise Unavailable(SYSTEM, str(refused)) from None


def _require_possible(module: ModuleState, observed: Observed) -> None:
    """Raises Refused for what can't be had at all."""
    row = observed.module
    if row is not None:
        holder = (row["module_name"], row["namespace"], row["name"])
        if holder != (module.module_name, module.namespace, module.name):
            kept = ", whose data is retained" if row["removed_at"] else ""
            raise Refused(
                "SlugTaken",
                f"spec.moduleName: the slug {module.slug} belongs to {holder[0]} "
                f"(KernelModule {holder[1]}/{holder[2]}){kept}; choose another name",
            )
    for model in module.models:
        for name in (module.schema, model.name, *(column.name for column in model.columns)):
            if len(name.encode()) > _NAME_BYTES:
                raise Refused(
                    "NameTooLong", f"spec.dataApi.models[{model.name}]: {name} is longer than {_NAME_BYTES} bytes"
                )
    vanished = sorted(set(observed.models) - {model.name for model in module.models})
    if vanished:
        raise Refused(
            "IncompatibleChange",
            f"spec.dataApi.models[{vanished[0]}]: a model can't be removed once its table exists; put it back "
            "(it may be left unused), or delete the module with its data",
        )


def _changes(module: ModuleState, observed: Observed, password: str) -> list[Change]:
    changes = [*login_changes(module, observed, password), *schema_changes(module, observed)]
    for model in module.models:
        known = [column["name"] for column in observed.models.get(model.name, {}).get("columns", ())]
        changes += table_changes(module, model, observed.tables.get(model.name), observed.template, known)
    return changes


async def _execute(connection: asyncpg.Connection, module: ModuleState, changes: list[Change]) -> None:
    try:
        await run(connection, (statement for change in changes for statement in change.statements))
    except asyncpg.NotNullViolationError as error:
        raise Refused(
            "IncompatibleChange",
            f"spec.dataApi.models[{error.table_name}].fields[{error.column_name}].required: "
            "the table has rows without a value; leave the field optional, fill it in every row, then require it",
        ) from None
    except asyncpg.DuplicateTableError:
        raise Refused(
            "NameTaken",
            f"spec.dataApi.models: in schema {module.schema} a view, sequence or index has the name of a model; "
            "drop it, or choose another name",
        ) from None
    except asyncpg.UniqueViolationError as error:
        raise Refused(
            "DataConflict",
            f"table {module.schema}.{error.table_name}: its key can't be restored, because rows have the same; "
            "remove the doubles",
        ) from None


async def _record(connection: asyncpg.Connection, module: ModuleState, observed: Observed, password: str) -> list[str]:
    """The rows that tell others about the module, written where they differ."""
    row = observed.module or {}
    clauses = []
    wanted = {
        "resource_uid": module.uid,
        "version": module.version,
        "active": module.active,
        "login_fingerprint": fingerprint(password),
        "permissions": list(module.permissions),
        "removed_at": None,
    }
    if any(row.get(name, "") != value for name, value in wanted.items()):
        await connection.execute(
            query("write_module"),
            module.slug,
            module.module_name,
            module.namespace,
            module.name,
            module.uid,
            module.version,
            module.active,
            wanted["login_fingerprint"],
            wanted["permissions"],
        )
        clauses.append(_recorded(module, row))
    models = [_described(model) for model in module.models]
    differing = [model for model in models if observed.models.get(model["model"]) != _without_name(model)]
    if differing:
        await connection.execute(query("write_models"), module.slug, json.dumps(differing))
    publishes = module.publishes if module.active else ()
    if observed.rights != dict.fromkeys(publishes, module.module_name):
        await connection.execute(query("write_event_rights"), module.schema, list(publishes), module.module_name)
        clauses.append("recorded what it may publish")
    counts = await connection.fetchrow(query("write_module_tenants"), module.slug, sorted(module.tenants))
    if counts["unknown"]:
        raise Unavailable(SYSTEM, f"{counts['unknown']} tenants of module {module.slug} are not in the database yet")
    if counts["come"]:
        clauses.append(f"activated for {counts['come']} tenants")
    if counts["gone"]:
        clauses.append(f"deactivated for {counts['gone']} tenants")
    return [clause for clause in clauses if clause]


def _recorded(module: ModuleState, row: dict[str, Any]) -> str:
    if not row:
        return f"registered module {module.slug} {module.version}"
    if row["removed_at"]:
        return f"took module {module.slug} up again with its data"
    if row["version"] != module.version:
        return f"recorded version {module.version}"
    if row["resource_uid"] != module.uid:
        return "bound the module to its new resource"
    return "recorded the permissions" if row["permissions"] != list(module.permissions) else ""


def _described(model: Model) -> dict[str, Any]:
    return {
        "model": model.name,
        "columns": [{**asdict(column), "type": str(column.type)} for column in model.columns],
        "analytics": model.analytics,
        "retention_days": model.retention_days,
    }


def _without_name(model: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in model.items() if name != "model"}


async def _close(connection: asyncpg.Connection, slug: str, name: str, observed: Observed) -> Outcome:
    row = observed.module or {}
    login = observed.login
    if row["removed_at"] and not (login and login.attributes["LOGIN"]):
        return Outcome()
    if login:
        # Rights as well: a connection that is open outlives its login.
        await run(
            connection,
            [
                Statement.of("ALTER ROLE %I NOLOGIN", name),
                Statement.of("REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I", name, name),
                Statement.of("REVOKE ALL ON SCHEMA %I FROM %I", name, name),
            ],
        )
    await connection.execute(_NO_RIGHTS, name)
    await connection.execute("DELETE FROM kernel.module_tenants WHERE slug = $1", slug)
    await connection.execute(
        "UPDATE kernel.modules SET active = false, removed_at = coalesce(removed_at, now()) WHERE slug = $1", slug
    )
    return Outcome((f"closed login {name}; its tables are kept",))


async def _drop(connection: asyncpg.Connection, slug: str, name: str, observed: Observed) -> Outcome:
    statements = []
    if observed.namespace:
        statements.append(Statement.of("DROP SCHEMA %I CASCADE", name))
    if observed.login:
        statements += [
            Statement.of("GRANT %I TO kernel_operator WITH INHERIT TRUE, SET FALSE", name),
            Statement.of("DROP OWNED BY %I CASCADE", name),
            Statement.of("DROP ROLE %I", name),
        ]
    try:
        await run(connection, statements)
    except asyncpg.DependentObjectsStillExistError as error:
        raise Refused(
            "LoginInUse", f"the role {name} can't be dropped: {error.detail}; take its rights away or drop what it owns"
        ) from None
    await connection.execute(_NO_RIGHTS, name)
    await connection.execute("DELETE FROM kernel.modules WHERE slug = $1", slug)
    return Outcome((f"dropped schema and login {name} with all data",))
