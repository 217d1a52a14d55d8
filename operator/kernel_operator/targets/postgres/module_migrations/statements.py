"""The statements that a migration may hold; every other kind is refused by its name."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pglast import ast
from pglast.enums import ObjectType

from kernel_operator.targets.postgres.module_migrations.builtin_types import check_collation
from kernel_operator.targets.postgres.module_migrations.expressions import INDEX, VALUE, check_expression
from kernel_operator.targets.postgres.module_migrations.nodes import NotAllowed, names, only
from kernel_operator.targets.postgres.module_migrations.tables import (
    TENANT,
    alter_table,
    create_table,
    new_name,
    relation,
)

ALLOWED = "CREATE TABLE, CREATE INDEX, CREATE SEQUENCE, ALTER TABLE ... ADD, COMMENT ON and INSERT ... VALUES"

_METHODS = ("btree", "hash", "gin", "gist", "brin", "spgist")
_SEQUENCE = frozenset(("increment", "start", "minvalue", "maxvalue", "cache", "cycle"))


class Touched(NamedTuple):
    """What a statement needs: to own the ``owned`` tables, and to refer to the ``referenced`` ones."""

    owned: Sequence[str] = ()
    referenced: Sequence[str] = ()


def check_statement(node: ast.Node | None, schema: str) -> Touched:
    """What the statement ``node`` touches in the module's ``schema``.

    Raises NotAllowed unless it is one that a migration may hold.
    """
    rule = _RULES.get(type(node))
    if rule is None:
        raise NotAllowed(*_refused(node))
    return rule(node, schema)


def _create_table(node: Any, schema: str) -> Touched:
    _, referenced = create_table(node, schema)
    return Touched(referenced=referenced)


def _alter_table(node: Any, schema: str) -> Touched:
    table, referenced = alter_table(node, schema)
    return Touched((table,), referenced)


def _index(node: Any, schema: str) -> Touched:
    table = relation(node.relation, schema)
    if node.concurrent:
        raise NotAllowed("CONCURRENTLY", "a migration is one transaction, which it can't be part of; leave it out")
    if node.accessMethod not in _METHODS:
        raise NotAllowed(f"the index method {node.accessMethod}", f"use one of {', '.join(_METHODS)}")
    looked_at = ("idxname", "relation", "accessMethod", "indexParams", "indexIncludingParams", "whereClause", "unique")
    only(node, *looked_at, "nulls_not_distinct", "if_not_exists", what="CREATE INDEX")
    new_name(node.idxname or "")
    for element in (*node.indexParams, *(node.indexIncludingParams or ())):
        only(element, "name", "expr", "collation", "opclass", "ordering", "nulls_ordering", what="an index's column")
        check_expression(element.expr, INDEX)
        if element.collation:
            check_collation(ast.CollateClause(collname=element.collation))
        path = names(element.opclass)
        if len(path) > 1 and path[:-1] != ("pg_catalog",):
            raise NotAllowed(f"the operator class {'.'.join(path)}", "use one of PostgreSQL's own")
    check_expression(node.whereClause, INDEX)
    if node.unique and TENANT not in [element.name for element in node.indexParams]:
        raise NotAllowed("a unique index without tenant_id", "put tenant_id into it, as in (tenant_id, ...)")
    return Touched((table,))


def _insert(node: Any, schema: str) -> Touched:
    table = relation(node.relation, schema)
    only(node, "relation", "cols", "selectStmt", what="INSERT", way_out="write INSERT INTO t (...) VALUES (...)")
    for column in node.cols or ():
        only(column, "name", what="a part of a column", way_out="write whole values")
    source = node.selectStmt
    if source is None or not source.valuesLists:
        raise NotAllowed("INSERT of anything but VALUES", "write INSERT INTO t (...) VALUES (...)")
    only(source, "valuesLists", what="VALUES")
    check_expression(source.valuesLists, VALUE)
    return Touched((table,))


def _sequence(node: Any, schema: str) -> Touched:
    relation(node.sequence, schema)
    only(node, "sequence", "options", "if_not_exists", what="CREATE SEQUENCE")
    for option in node.options or ():
        if option.defname not in _SEQUENCE or option.defnamespace:
            raise NotAllowed(f"{option.defname.replace('_', ' ').upper()} of a sequence", "leave it out")
    return Touched()


def _comment(node: Any, schema: str) -> Touched:
    path: tuple[str, ...] = names(node.object) if isinstance(node.object, tuple) else ()
    length = {ObjectType.OBJECT_TABLE: 1, ObjectType.OBJECT_COLUMN: 2}.get(node.objtype)
    if length is None:
        kind = str(node.objtype.name).removeprefix("OBJECT_")
        raise NotAllowed(f"COMMENT ON {kind}", "only tables and columns may be commented on")
    if len(path) == length + 1 and path[0] == schema:
        path = path[1:]
    if len(path) != length:
        raise NotAllowed(f"the name {'.'.join(path)}", f"a module's migrations reach the schema {schema} only")
    return Touched((new_name(path[0]),))


_RULES: dict[type, Callable[[Any, str], Touched]] = {
    ast.CreateStmt: _create_table,
    ast.AlterTableStmt: _alter_table,
    ast.IndexStmt: _index,
    ast.InsertStmt: _insert,
    ast.CreateSeqStmt: _sequence,
    ast.CommentStmt: _comment,
}

_CODE = "nothing may run later with rights of others; put logic into the module's service"
_RIGHTS = "rights are given by the platform alone"
_SESSION = "the session is the platform's"
_READING = "the rows are tenants', and a migration has no tenant"
_DATA = "change rows in the module's service, tenant by tenant"
_WHOLE = "a migration is one transaction, which the platform begins and ends"
_SERVER = "it reaches beyond the module's schema"

_SAID: dict[type, tuple[str, str]] = {
    ast.CreateFunctionStmt: ("CREATE FUNCTION or PROCEDURE", _CODE),
    ast.DoStmt: ("DO", _CODE),
    ast.CallStmt: ("CALL", _CODE),
    ast.CreateTrigStmt: ("CREATE TRIGGER", _CODE),
    ast.CreateEventTrigStmt: ("CREATE EVENT TRIGGER", _CODE),
    ast.RuleStmt: ("CREATE RULE", _CODE),
    ast.ViewStmt: ("CREATE VIEW", "a view reads with its owner's rights; query the tables in the module's service"),
    ast.CreateTableAsStmt: ("CREATE TABLE AS or MATERIALIZED VIEW", "its rows would be outside row-level security"),
    ast.CreatePolicyStmt: ("CREATE POLICY", "tenant_isolation is made by the platform, and policies add up"),
    ast.AlterPolicyStmt: ("ALTER POLICY", "policies are the platform's"),
    ast.GrantStmt: ("GRANT or REVOKE", _RIGHTS),
    ast.GrantRoleStmt: ("GRANT or REVOKE of a role", _RIGHTS),
    ast.AlterDefaultPrivilegesStmt: ("ALTER DEFAULT PRIVILEGES", _RIGHTS),
    ast.AlterOwnerStmt: ("OWNER TO", "everything is the operator's"),
    ast.VariableSetStmt: ("SET or RESET", _SESSION),
    ast.VariableShowStmt: ("SHOW", _SESSION),
    ast.DiscardStmt: ("DISCARD", _SESSION),
    ast.PrepareStmt: ("PREPARE", _SESSION),
    ast.ExecuteStmt: ("EXECUTE", _SESSION),
    ast.DeallocateStmt: ("DEALLOCATE", _SESSION),
    ast.ListenStmt: ("LISTEN", _SESSION),
    ast.UnlistenStmt: ("UNLISTEN", _SESSION),
    ast.NotifyStmt: ("NOTIFY", "events go through kernel.outbox"),
    ast.TransactionStmt: ("BEGIN, COMMIT, ROLLBACK or SAVEPOINT", _WHOLE),
    ast.ConstraintsSetStmt: ("SET CONSTRAINTS", _WHOLE),
    ast.LockStmt: ("LOCK", _WHOLE),
    ast.VacuumStmt: ("VACUUM or ANALYZE", "PostgreSQL does it by itself"),
    ast.ReindexStmt: ("REINDEX", "indexes are kept by the platform's administrator"),
    ast.CheckPointStmt: ("CHECKPOINT", _SERVER),
    ast.LoadStmt: ("LOAD", _SERVER),
    ast.CopyStmt: ("COPY", "it reads and writes the server's files and programs; use INSERT ... VALUES"),
    ast.SelectStmt: ("SELECT, TABLE or VALUES", _READING),
    ast.UpdateStmt: ("UPDATE", _DATA),
    ast.DeleteStmt: ("DELETE", _DATA),
    ast.MergeStmt: ("MERGE", _DATA),
    ast.TruncateStmt: ("TRUNCATE", "it would empty every tenant's rows"),
    ast.DropStmt: ("DROP", "the version before still uses it; leave it unused"),
    ast.DropRoleStmt: ("DROP ROLE", _SERVER),
    ast.DropOwnedStmt: ("DROP OWNED", _SERVER),
    ast.ReassignOwnedStmt: ("REASSIGN OWNED", _SERVER),
    ast.DropdbStmt: ("DROP DATABASE", _SERVER),
    ast.CreatedbStmt: ("CREATE DATABASE", _SERVER),
    ast.AlterDatabaseStmt: ("ALTER DATABASE", _SERVER),
    ast.AlterDatabaseSetStmt: ("ALTER DATABASE SET", _SERVER),
    ast.AlterSystemStmt: ("ALTER SYSTEM", _SERVER),
    ast.CreateRoleStmt: ("CREATE ROLE", _SERVER),
    ast.AlterRoleStmt: ("ALTER ROLE", _SERVER),
    ast.AlterRoleSetStmt: ("ALTER ROLE SET", _SERVER),
    ast.CreateSchemaStmt: ("CREATE SCHEMA", _SERVER),
    ast.CreateExtensionStmt: ("CREATE EXTENSION", _SERVER),
    ast.AlterExtensionStmt: ("ALTER EXTENSION", _SERVER),
    ast.CreateForeignTableStmt: ("CREATE FOREIGN TABLE", _SERVER),
    ast.CreateForeignServerStmt: ("CREATE SERVER", _SERVER),
    ast.CreateFdwStmt: ("CREATE FOREIGN DATA WRAPPER", _SERVER),
    ast.CreateUserMappingStmt: ("CREATE USER MAPPING", _SERVER),
    ast.ImportForeignSchemaStmt: ("IMPORT FOREIGN SCHEMA", _SERVER),
    ast.CreatePublicationStmt: ("CREATE PUBLICATION", "what analytics needs is declared in spec.dataApi.models"),
    ast.AlterPublicationStmt: ("ALTER PUBLICATION", "what analytics needs is declared in spec.dataApi.models"),
    ast.CreateSubscriptionStmt: ("CREATE SUBSCRIPTION", _SERVER),
    ast.SecLabelStmt: ("SECURITY LABEL", _SERVER),
    ast.CreateTableSpaceStmt: ("CREATE TABLESPACE", _SERVER),
    ast.CreateEnumStmt: ("CREATE TYPE", "use text with a CHECK, which can be widened later"),
    ast.AlterEnumStmt: ("ALTER TYPE", "use text with a CHECK, which can be widened later"),
    ast.CreateDomainStmt: ("CREATE DOMAIN", "write the CHECK on the column"),
    ast.CompositeTypeStmt: ("CREATE TYPE", "use jsonb"),
    ast.CreateRangeStmt: ("CREATE TYPE", "use a built-in range"),
    ast.DefineStmt: ("CREATE TYPE, OPERATOR, AGGREGATE, COLLATION or TEXT SEARCH", _CODE),
    ast.CreateCastStmt: ("CREATE CAST", _CODE),
    ast.CreateOpClassStmt: ("CREATE OPERATOR CLASS", _CODE),
    ast.CreateStatsStmt: ("CREATE STATISTICS", "leave it out"),
    ast.AlterSeqStmt: ("ALTER SEQUENCE", "make another one"),
    ast.RenameStmt: ("RENAME", "the version before still uses the name"),
    ast.AlterObjectSchemaStmt: ("SET SCHEMA", "everything of a module stays in its schema"),
    ast.AlterObjectDependsStmt: ("DEPENDS ON EXTENSION", _SERVER),
    ast.AlterTableMoveAllStmt: ("ALTER TABLE ALL", _SERVER),
    ast.RefreshMatViewStmt: ("REFRESH MATERIALIZED VIEW", "there is none"),
}


def _refused(node: ast.Node | None) -> tuple[str, str]:
    name = type(node).__name__.removesuffix("Stmt")
    return _SAID.get(type(node), (f"a statement of the kind {name}", f"a migration may hold {ALLOWED}"))
