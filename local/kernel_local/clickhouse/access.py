"""Access statements: CREATE/ALTER/DROP USER and ROW POLICY, GRANT, REVOKE, applied to an AccessState.

The engine has nowhere to keep what these make, but parses them: a statement comes here in the engine's own
normal form, so that only the clauses it prints need to be understood. What is not understood is refused by name.
"""

from kernel_local.clickhouse import access_grants, access_policies, access_users
from kernel_local.clickhouse.access_clauses import Normalize, unsupported
from kernel_local.clickhouse.access_policies import Clauses
from kernel_local.clickhouse.state import AccessState
from kernel_local.clickhouse.tokens import Cursor, tokenize


def apply(statement: str, state: AccessState, principal: str, database: str, normalize: Normalize) -> None:
    """Changes the state as one statement says; on an error the state may be half changed, so pass a copy.

    Args:
        statement: the statement in the engine's normal form (`formatQuerySingleLine`).
        state: changed in place.
        principal: who asks; anyone but the administrator needs the grants that ClickHouse asks for.
        database: for names without one.
        normalize: gives the normal form of a statement, for conditions.

    Raises:
        ClickHouseError: with ClickHouse's code for what is wrong.
    """
    tokens = tokenize(statement)
    cursor = Cursor(tokens)
    if cursor.accept("CREATE", "USER"):
        access_users.create(cursor, state, principal)
    elif cursor.accept("ALTER", "USER"):
        access_users.alter(cursor, state, principal)
    elif cursor.accept("DROP", "USER"):
        access_users.drop(cursor, state, principal)
    elif cursor.accept("CREATE", "ROW", "POLICY"):
        access_policies.create(Clauses(statement, tokens, cursor), state, principal, database, normalize)
    elif cursor.accept("ALTER", "ROW", "POLICY"):
        access_policies.alter(Clauses(statement, tokens, cursor), state, principal, database, normalize)
    elif cursor.accept("DROP", "ROW", "POLICY"):
        access_policies.drop(cursor, state, principal, database)
    elif cursor.accept("GRANT"):
        access_grants.grant(cursor, state, principal, database)
    elif cursor.accept("REVOKE"):
        access_grants.revoke(cursor, state, principal, database)
    else:
        raise unsupported("this kind of access statement")
