"""The types that columns may have and values may be cast to: PostgreSQL's own, by a list."""

from pglast import ast

from kernel_operator.targets.postgres.module_migrations.nodes import NotAllowed, names, only

_TYPES = (
    "bool boolean int2 int4 int8 smallint int integer bigint numeric decimal float4 float8 real text varchar bpchar "
    "date time timetz timestamp timestamptz interval uuid json jsonb bytea inet cidr macaddr tsvector bit varbit "
    "int4range int8range numrange daterange tsrange tstzrange"
)
TYPES = frozenset(_TYPES.split())

_SERIAL = frozenset(("serial", "serial2", "serial4", "serial8", "smallserial", "bigserial"))


def check_type(node: ast.TypeName | None) -> None:
    """Raises NotAllowed unless ``node`` is a type of the list, or an array of one."""
    path = names(node.names) if node else ()
    if node is None or not path:
        raise NotAllowed("a column without a type", "write its type")
    *schema, name = path
    shown = ".".join(path)
    if name in _SERIAL:
        raise NotAllowed(
            f"the type {shown}",
            "a sequence tells each tenant how much the others write; use uuid with DEFAULT uuidv7()",
        )
    if schema not in ([], ["pg_catalog"]) or name not in TYPES:
        raise NotAllowed(
            f"the type {shown}", "use a built-in type such as text, bigint, numeric, timestamptz, uuid or jsonb"
        )
    for modifier in node.typmods or ():
        if not (isinstance(modifier, ast.A_Const) and isinstance(modifier.val, ast.Integer)):
            raise NotAllowed(f"the type {shown} with a computed length", "write the length as a number")
    only(node, "names", "typmods", "typemod", "arrayBounds", what=f"the type {shown}")


def check_collation(node: ast.CollateClause) -> None:
    """Raises NotAllowed unless the collation is one of PostgreSQL's own. An argument is not looked at."""
    path = names(node.collname)
    if len(path) > 1 and path[:-1] != ("pg_catalog",):
        raise NotAllowed(f"the collation {'.'.join(path)}", "use one of PostgreSQL's own")
    only(node, "collname", "arg", what="COLLATE")
