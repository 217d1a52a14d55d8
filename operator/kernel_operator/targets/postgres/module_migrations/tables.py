"""CREATE TABLE and ALTER TABLE, and what they are made of."""

from collections.abc import Callable, Sequence
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType, ConstrType, DropBehavior, ObjectType

from kernel_operator.targets.postgres.module_migrations.builtin_types import check_collation, check_type
from kernel_operator.targets.postgres.module_migrations.expressions import (
    ADDED,
    CHECK,
    DEFAULT,
    GENERATED,
    Place,
    check_expression,
)
from kernel_operator.targets.postgres.module_migrations.nodes import NotAllowed, names, only

TENANT = "tenant_id"

_TENANT_KEY = "rows of one tenant must not show in another's; put tenant_id into it, as in (tenant_id, ...)"
_FOREIGN_KEY = (
    "write FOREIGN KEY (tenant_id, x) REFERENCES t (tenant_id, x) ON DELETE CASCADE, so that no row points to "
    "another tenant's"
)
_GROWTH = "the version before still runs; add a column of another name beside it"


def relation(node: Any, schema: str) -> str:
    """The name of a table of the module. Raises NotAllowed for any other, by whatever spelling."""
    path = ".".join(part for part in (node.catalogname, node.schemaname, node.relname) if part)
    if node.catalogname or node.schemaname not in (None, schema):
        raise NotAllowed(f"the name {path}", f"a module's migrations reach the schema {schema} only")
    if node.relpersistence != "p":
        raise NotAllowed(f"a temporary or unlogged {path}", "leave TEMPORARY and UNLOGGED out")
    only(node, "schemaname", "relname", "inh", "relpersistence", what=f"the name {path}")
    return new_name(node.relname)


def new_name(name: str) -> str:
    """Raises NotAllowed for names that PostgreSQL looks up in its own schema first."""
    if name.startswith("pg_"):
        raise NotAllowed(f"the name {name}", "names that begin with pg_ are PostgreSQL's own")
    return name


def create_table(node: Any, schema: str) -> tuple[str, list[str]]:
    """The table's name, and the tables it refers to."""
    name = relation(node.relation, schema)
    what = f"the table {name}"
    if node.inhRelations or node.partspec or node.partbound or node.ofTypename:
        raise NotAllowed(f"{what} made of a type, a parent or partitions", "write a plain table")
    only(node, "relation", "tableElts", "if_not_exists", what=what)
    referenced: list[str] = []
    for element in node.tableElts or ():
        if isinstance(element, ast.ColumnDef):
            referenced += _column(element, schema, DEFAULT)
        elif isinstance(element, ast.Constraint):
            referenced += constraint(element, schema)
        else:
            raise NotAllowed(f"LIKE in {what}", "write the columns out")
    return name, referenced


def alter_table(node: Any, schema: str) -> tuple[str, list[str]]:
    """The table's name, and the tables it refers to."""
    if node.objtype != ObjectType.OBJECT_TABLE:
        kind = str(node.objtype.name).removeprefix("OBJECT_")
        raise NotAllowed(f"ALTER {kind}", "only ALTER TABLE is")
    name = relation(node.relation, schema)
    only(node, "relation", "cmds", "objtype", "missing_ok", what="ALTER TABLE")
    referenced: list[str] = []
    for command in node.cmds:
        rule = _COMMANDS.get(command.subtype)
        if rule is None:
            raise NotAllowed(*_refused(command))
        only(command, "subtype", "name", "def_", "behavior", "missing_ok", what="ALTER TABLE")
        if command.name == TENANT:
            raise NotAllowed("ALTER COLUMN tenant_id", "it keeps tenants apart and stays as it is")
        if command.behavior == DropBehavior.DROP_CASCADE:
            raise NotAllowed("CASCADE", "drop each thing by name")
        referenced += rule(command, schema)
    return name, referenced


def constraint(node: Any, schema: str, column: str | None = None) -> Sequence[str]:
    """The tables it refers to. ``column`` is the one that it stands behind; None when it stands by itself."""
    if node.deferrable or node.initdeferred or node.contype in _DEFERRING:
        raise NotAllowed("DEFERRABLE or NOT ENFORCED", "leave it out")
    rule = _CONSTRAINTS.get(node.contype)
    if rule is None:
        kind = str(node.contype.name).removeprefix("CONSTR_")
        way_out = "use a plain key" if kind != "IDENTITY" else "use uuid with DEFAULT uuidv7()"
        raise NotAllowed(f"the constraint {kind}", way_out)
    return rule(node, schema, column)


def _column(node: Any, schema: str, place: Place) -> list[str]:
    what = f"the column {node.colname}"
    check_type(node.typeName)
    if node.collClause:
        check_collation(node.collClause)
    only(node, "colname", "typeName", "is_local", "collClause", "constraints", what=what)
    if node.colname == TENANT and names(node.typeName.names)[-1] != "uuid":
        raise NotAllowed("tenant_id of another type", "write tenant_id uuid NOT NULL")
    referenced: list[str] = []
    for item in node.constraints or ():
        if item.contype == ConstrType.CONSTR_DEFAULT:
            if node.colname == TENANT:
                raise NotAllowed("a default for tenant_id", "leave it out: it fills itself from the transaction")
            check_expression(item.raw_expr, place)
            only(item, "contype", "raw_expr", "conname", what="DEFAULT")
        elif item.contype == ConstrType.CONSTR_GENERATED and place is ADDED:
            raise NotAllowed("a generated column on a table that has rows", "make it with the table, or use a default")
        else:
            referenced += constraint(item, schema, node.colname)
    return referenced


def _null(node: Any, schema: str, column: str | None) -> Sequence[str]:
    if node.contype == ConstrType.CONSTR_NULL and column == TENANT:
        raise NotAllowed("tenant_id NULL", "write tenant_id uuid NOT NULL")
    only(
        node, "contype", "conname", "keys", "is_enforced", "initially_valid", "skip_validation", what="NULL or NOT NULL"
    )
    return ()


def _check(node: Any, schema: str, column: str | None) -> Sequence[str]:
    check_expression(node.raw_expr, CHECK)
    _require_enforced(node)
    only(node, "contype", "conname", "raw_expr", "is_enforced", "skip_validation", "initially_valid", what="CHECK")
    return ()


def _generated(node: Any, schema: str, column: str | None) -> Sequence[str]:
    check_expression(node.raw_expr, GENERATED)
    only(node, "contype", "conname", "raw_expr", "generated_when", "generated_kind", what="GENERATED")
    return ()


def _key(node: Any, schema: str, column: str | None) -> Sequence[str]:
    kind = "PRIMARY KEY" if node.contype == ConstrType.CONSTR_PRIMARY else "UNIQUE"
    only(
        node,
        "contype",
        "conname",
        "keys",
        "including",
        "nulls_not_distinct",
        "is_enforced",
        "initially_valid",
        what=kind,
        way_out="write the columns",
    )
    columns = names(node.keys) or (column,)
    if TENANT not in columns:
        raise NotAllowed(f"{kind} without tenant_id", _TENANT_KEY)
    return ()


def _foreign_key(node: Any, schema: str, column: str | None) -> Sequence[str]:
    target = relation(node.pktable, schema)
    _require_enforced(node)
    only(
        node,
        "contype",
        "conname",
        "pktable",
        "fk_attrs",
        "pk_attrs",
        "fk_matchtype",
        "fk_upd_action",
        "fk_del_action",
        "fk_del_set_cols",
        "is_enforced",
        "skip_validation",
        "initially_valid",
        what="FOREIGN KEY",
    )
    pairs = tuple(zip(names(node.fk_attrs), names(node.pk_attrs), strict=False))
    if (TENANT, TENANT) not in pairs or len(pairs) < len(node.fk_attrs or ()):
        raise NotAllowed("a foreign key without tenant_id on both sides", _FOREIGN_KEY)
    cleared = names(node.fk_del_set_cols)
    if not (node.fk_del_action == "c" or (node.fk_del_action == "n" and cleared and TENANT not in cleared)):
        way_out = "a tenant's rows are deleted table by table; write ON DELETE CASCADE, or ON DELETE SET NULL (x)"
        raise NotAllowed("a foreign key that stops deletions", way_out)
    if node.fk_upd_action not in ("a", "r"):
        raise NotAllowed("ON UPDATE", "leave it out: keys don't change")
    return (target,)


def _require_enforced(node: Any) -> None:
    if not node.is_enforced:
        raise NotAllowed("NOT ENFORCED", "leave it out")


_Rule = Callable[[Any, str, str | None], Sequence[str]]
_CONSTRAINTS: dict[ConstrType, _Rule] = {
    ConstrType.CONSTR_NULL: _null,
    ConstrType.CONSTR_NOTNULL: _null,
    ConstrType.CONSTR_CHECK: _check,
    ConstrType.CONSTR_GENERATED: _generated,
    ConstrType.CONSTR_PRIMARY: _key,
    ConstrType.CONSTR_UNIQUE: _key,
    ConstrType.CONSTR_FOREIGN: _foreign_key,
}
_DEFERRING = (
    ConstrType.CONSTR_ATTR_DEFERRABLE,
    ConstrType.CONSTR_ATTR_DEFERRED,
    ConstrType.CONSTR_ATTR_NOT_ENFORCED,
)


def _add_column(command: Any, schema: str) -> Sequence[str]:
    if command.def_.colname == TENANT:
        raise NotAllowed("ADD COLUMN tenant_id", "a table has it from the beginning: make a new table")
    return _column(command.def_, schema, ADDED)


def _add_constraint(command: Any, schema: str) -> Sequence[str]:
    return constraint(command.def_, schema)


def _set_default(command: Any, schema: str) -> Sequence[str]:
    check_expression(command.def_, DEFAULT)
    return ()


def _harmless(command: Any, schema: str) -> Sequence[str]:
    if command.def_ is not None:
        raise NotAllowed("this form of ALTER TABLE", "leave it out")
    return ()


_COMMANDS: dict[AlterTableType, Callable[[Any, str], Sequence[str]]] = {
    AlterTableType.AT_AddColumn: _add_column,
    AlterTableType.AT_AddConstraint: _add_constraint,
    AlterTableType.AT_ColumnDefault: _set_default,
    AlterTableType.AT_SetNotNull: _harmless,
    AlterTableType.AT_DropNotNull: _harmless,
    AlterTableType.AT_ValidateConstraint: _harmless,
    AlterTableType.AT_DropConstraint: _harmless,
}

_SAID = {
    AlterTableType.AT_DropColumn: ("DROP COLUMN", "the version before still uses it; leave it unused"),
    AlterTableType.AT_AlterColumnType: ("ALTER COLUMN TYPE", _GROWTH),
    AlterTableType.AT_ChangeOwner: ("OWNER TO", "everything is the operator's"),
    AlterTableType.AT_AddIdentity: ("IDENTITY", "use uuid with DEFAULT uuidv7()"),
    AlterTableType.AT_AddInherit: ("INHERIT", "write a plain table"),
    AlterTableType.AT_ReplicaIdentity: ("REPLICA IDENTITY", "what analytics needs is declared in spec.dataApi.models"),
}


def _refused(command: Any) -> tuple[str, str]:
    name = str(command.subtype.name).removeprefix("AT_")
    if "RowSecurity" in name:
        return "switching row-level security", "it is on for every table, and stays on"
    if "Trig" in name or "Rule" in name:
        return "switching triggers or rules", "they are the platform's"
    return _SAID.get(command.subtype, (f"ALTER TABLE {name}", "only columns and constraints may be added"))
