"""Renders an AccessState as the engine's users.xml.

chdb reads users only from this file, when it starts. The engine's users are not those of SQL: one stands for all
users with the same rights (grants and policies that apply), named after a hash of them, because a tenant's user then
costs no re-open (each takes 40 ms and leaves 5 MB behind in the engine). Who asks is told by `currentUser()`.

chdb enforces filters that the file declares, but lets a user without a filter read every row. So each has a filter
on each table that has a policy, `0` where no policy applies.
"""

import secrets
from collections.abc import Iterable
from xml.sax.saxutils import escape

from kernel_local.clickhouse.state import ADMINISTRATOR, AccessState, Grant, Rights
from kernel_local.clickhouse.tokens import quote_identifier, quote_if_needed

_SETTINGS = "<networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>"


def render(state: AccessState, all_rights: Iterable[Rights]) -> str:
    """The whole users.xml for these rights."""
    tables = list(state.guarded_tables())
    parts = [
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users>",
        # chdb opens its connections as this user, without a password; nothing but this process can reach the engine.
        f"<{ADMINISTRATOR}><password></password>{_SETTINGS}"
        f"<grants><query>GRANT ALL ON *.* WITH GRANT OPTION</query></grants></{ADMINISTRATOR}>",
    ]
    for rights in all_rights:
        grants = "".join(f"<query>{escape(grant_sql(one))}</query>" for one in sorted(rights.grants))
        filters = "".join(
            f"<{database}><{table}><filter>{escape(state.condition(rights, database, table) or '0')}</filter>"
            f"</{table}></{database}>"
            for database, table in tables
        )
        parts.append(
            # This server checks passwords, the engine never does: the one here fits nobody.
            f"<{rights.engine_user}><password_sha256_hex>{secrets.token_hex(32)}</password_sha256_hex>{_SETTINGS}"
            f"<grants>{grants or '<query>GRANT USAGE ON *.*</query>'}</grants>"
            f"<databases>{filters}</databases></{rights.engine_user}>"
        )
    return "".join([*parts, "</users></clickhouse>"])


def grant_sql(grant: Grant, user: str = "") -> str:
    """The GRANT statement of a grant, with `TO user` if one is given."""
    columns = f"({', '.join(quote_if_needed(one) for one in grant.columns)})" if grant.columns else ""
    where = grant.named or "*.*"
    if "-" in where:
        where = quote_identifier(where.rstrip("*")) + ("*" if where.endswith("*") else "")
    if grant.database:
        where = f"{quote_if_needed(grant.database)}.{quote_if_needed(grant.table) if grant.table else '*'}"
    to = f" TO {quote_if_needed(user)}" if user else ""
    return f"GRANT {grant.access}{columns} ON {where}{to}{' WITH GRANT OPTION' if grant.grant_option else ''}"
