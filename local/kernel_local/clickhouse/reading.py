"""Writes a query so that it runs as another user: the engine itself enforces that user's grants and row policies.

chdb opens every connection as `default` and has no EXECUTE AS. Two of its features together make up for it:
- a temporary view with `SQL SECURITY DEFINER` is read with the grants and filters of its definer, the engine's user
  that has the rights of who asks;
- `remote('127.0.0.1', ...)` with a user name stays in this process and makes `currentUser()` that name, which the
  policies compare. Alone it checks neither grants nor passwords: it is never used without the view.
"""

from kernel_local.clickhouse.engine import Connection
from kernel_local.clickhouse.tokens import quote_identifier, quote_string

_VIEW = "__as_user"
_READ_VIEW = "SELECT * FROM __as_user"


def prepare(connection: Connection, query: str, user: str, engine_user: str) -> str:
    """Makes the view on this connection and gives the SELECT that reads it, without FORMAT.

    Args:
        connection: of this request alone; the view goes with it.
        query: one SELECT without FORMAT, checked by guard.py.
        user: who asks, for `currentUser()`.
        engine_user: the engine's user with this user's rights (users_xml.py).

    Raises:
        ClickHouseError: what is wrong with the query.
    """
    # DESCRIBE only analyses: no subquery is run with the rights of `default`.
    described = connection.query(f"DESCRIBE TABLE ({query})", "TSV").bytes().decode()
    names = [_unescape(line.partition("\t")[0]) for line in described.splitlines()]
    # A view needs a stable name for each column, once: `SELECT 1, 1` and scalar subqueries have none.
    plain = len(set(names)) == len(names) and not any("_subquery" in name for name in names)
    columns = "" if plain else "(" + ", ".join(f"column_{index}" for index in range(len(names))) + ") "
    definer = f"SQL SECURITY DEFINER DEFINER = {quote_identifier(engine_user)}"
    connection.query(f"CREATE TEMPORARY VIEW {_VIEW} {columns}{definer} AS {query}")
    chosen = "*" if plain else ", ".join(_outer_columns(names))
    source = f"remote('127.0.0.1', view({_READ_VIEW}), {quote_string(user)}, '')"
    return f"SELECT {chosen} FROM {source}"  # noqa: S608 - names and the user are quoted


def _outer_columns(names: list[str]) -> list[str]:
    """The query's own names again; a name that comes twice stands for one expression, or ClickHouse refuses it."""
    return [
        quote_identifier(name) if name in names[:index] else f"column_{index} AS {quote_identifier(name)}"
        for index, name in enumerate(names)
    ]


def _unescape(name: str) -> str:
    return name.replace("\\'", "'").replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")
