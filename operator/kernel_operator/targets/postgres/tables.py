"""The tables of a module's models: compared with what was declared and with the template.

``kernel.model_template`` carries everything that keeps tenants apart and changes in order. A table is
made LIKE it and compared with it as the server itself writes both, so no text of a policy or a
default is ever parsed here.
"""

from collections.abc import Collection, Iterator

from kernel_operator.desired import ColumnType, Model, ModuleState
from kernel_operator.targets.postgres.changes import Change, change, own, rights
from kernel_operator.targets.postgres.observed import Column, Table
from kernel_operator.targets.postgres.publications import CAPTURED
from kernel_operator.targets.postgres.session import Refused, Statement

CDC = "kernel_cdc"

_SQL_TYPES = {
    ColumnType.TEXT: "text",
    ColumnType.INTEGER: "integer",
    ColumnType.BIGINT: "bigint",
    ColumnType.DECIMAL: "numeric(20,6)",
    ColumnType.FLOAT: "double precision",
    ColumnType.BOOLEAN: "boolean",
    ColumnType.DATE: "date",
    ColumnType.TIMESTAMP: "timestamp with time zone",
    ColumnType.UUID: "uuid",
    ColumnType.JSON: "jsonb",
}
"""As format_type() writes them."""

_TRIGGERS = {
    "touch_updated_at": "CREATE TRIGGER touch_updated_at BEFORE INSERT OR UPDATE ON %I.%I "
    "FOR EACH ROW EXECUTE FUNCTION kernel.touch_updated_at()",
    "refuse_truncate": "CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %I.%I "
    "FOR EACH STATEMENT EXECUTE FUNCTION kernel.refuse_truncate()",
}


def table_changes(
    module: ModuleState, model: Model, found: Table | None, template: Table, known: Collection[str] = ()
) -> Iterator[Change]:
    """What makes the table of ``model`` as it should be. Raises Refused for what is no addition.

    ``known`` are the fields that were recorded when the module was last applied: one of them that is
    not there now was dropped by somebody.
    """
    at, what = _names(module, model)
    reserved = [column.name for column in model.columns if column.name in template.columns]
    if reserved:
        raise Refused("ReservedColumn", f"{_where(model, reserved[0])}: every table has a column of this name already")
    if found is None:
        yield _create(module, model, what)
        steps = _protect(module, model, _bare(template), template)
        yield from (Change("", step.statements) for step in steps)
    else:
        yield from own(what, "TABLE", found, module.schema, *at)
        _require_kept(at, {*known, *template.columns}, found)
        yield from _columns(at, what, model, found, template)
        yield from _protect(module, model, found, template)


def _names(module: ModuleState, model: Model) -> tuple[tuple[str, str], str]:
    """The table's name in two parts, and as people read it."""
    return (module.schema, model.name), f"table {module.schema}.{model.name}"


def _create(module: ModuleState, model: Model, what: str) -> Change:
    columns = "".join(f", %I {_SQL_TYPES[c.type]}{' NOT NULL' if c.required else ''}" for c in model.columns)
    names = (module.schema, model.name, *(column.name for column in model.columns))
    return change(f"created {what}", f"CREATE TABLE %I.%I (LIKE kernel.model_template INCLUDING ALL{columns})", *names)


def _bare(template: Table) -> Table:
    """What a table is like when it was just made: the columns are right, nothing protects it yet."""
    return template.model_copy(
        update={
            "row_security": False,
            "forced": False,
            "identity": "d",
            "policies": {},
            "triggers": {},
            "published": None,
            "grants": template.owner_grants,
        }
    )


def _where(model: Model, column: str) -> str:
    return f"spec.dataApi.models[{model.name}].fields[{column}]"


def _columns(at: tuple[str, str], what: str, model: Model, found: Table, template: Table) -> Iterator[Change]:
    wanted = {column.name: column for column in model.columns}
    for name in found.columns:
        if name not in wanted and name not in template.columns:
            raise Refused(
                "IncompatibleChange",
                f"{_where(model, name)}: a field can't be removed once its column exists; put it back "
                "(it may be left unused)",
            )
    for name, column in template.columns.items():
        yield from _base_column(at, what, name, column, found.columns.get(name))
    for name, field in wanted.items():
        there = found.columns.get(name)
        sql_type = _SQL_TYPES[field.type]
        if there is None:
            required = " NOT NULL" if field.required else ""
            yield change(
                f"added column {name} to {what}", f"ALTER TABLE %I.%I ADD COLUMN %I {sql_type}{required}", *at, name
            )
        elif there.type != sql_type:
            raise Refused(
                "IncompatibleChange",
                f"{_where(model, name)}.type: the column is {there.type} and can't become {sql_type}; "
                "restore the type, and add a field of another name",
            )
        elif field.required and not there.required:
            yield change(f"made {name} of {what} required", "ALTER TABLE %I.%I ALTER COLUMN %I SET NOT NULL", *at, name)
        elif there.required and not field.required:
            yield change(
                f"made {name} of {what} optional", "ALTER TABLE %I.%I ALTER COLUMN %I DROP NOT NULL", *at, name
            )
    for key in sorted(set(template.keys) - set(found.keys)):
        kind, _, names = key.partition(":")
        columns = names.split(",")
        template_sql = (
            f"ALTER TABLE %I.%I ADD {'PRIMARY KEY' if kind == 'p' else 'UNIQUE'} ({', '.join('%I' for _ in columns)})"
        )
        yield change(f"restored the key ({', '.join(columns)}) of {what}", template_sql, *at, *columns)


def _require_kept(at: tuple[str, str], known: Collection[str], found: Table) -> None:
    """Raises Refused when a column was dropped from a table with rows: an empty one in its place would hide
    that their values are lost, and a lost ``deleted_at`` would bring deleted rows back."""
    lost = sorted(set(known) - set(found.columns))
    if lost and found.may_hold_rows:
        raise Refused(
            "ColumnLost",
            f"column {lost[0]} of table {'.'.join(at)} was dropped while the table had rows: restore it from a backup, "
            f"or give its values up with ALTER TABLE {'.'.join(at)} ADD COLUMN {lost[0]}, as kernel_operator",
        )


def _base_column(at: tuple[str, str], what: str, name: str, wanted: Column, there: Column | None) -> Iterator[Change]:
    """A column that every table has. Its default comes from the template as the server writes it."""
    default = f" DEFAULT {wanted.default}".replace("%", "%%") if wanted.default else ""
    if there is None:
        required = " NOT NULL" if wanted.required else ""
        yield change(
            f"restored column {name} of {what}",
            f"ALTER TABLE %I.%I ADD COLUMN %I {wanted.type}{default}{required}",
            *at,
            name,
        )
        return
    if there.type != wanted.type:
        raise Refused(
            "IncompatibleChange",
            f"{what}: the column {name} must be {wanted.type}, not {there.type}; put it right by hand",
        )
    if there.default != wanted.default:
        action = f"SET{default}" if default else "DROP DEFAULT"
        yield change(
            f"restored the default of {name} of {what}", f"ALTER TABLE %I.%I ALTER COLUMN %I {action}", *at, name
        )
    if there.required != wanted.required:
        action = "SET NOT NULL" if wanted.required else "DROP NOT NULL"
        yield change(f"restored {name} of {what}", f"ALTER TABLE %I.%I ALTER COLUMN %I {action}", *at, name)


def _protect(module: ModuleState, model: Model, found: Table, template: Table) -> Iterator[Change]:
    """All that does not concern columns: row-level security first, rights last."""
    at, what = _names(module, model)
    if not found.row_security:
        yield change(f"enabled row-level security on {what}", "ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY", *at)
    if not found.forced:
        yield change(f"forced row-level security on {what}", "ALTER TABLE %I.%I FORCE ROW LEVEL SECURITY", *at)
    yield from _policies(at, what, found, template)
    yield from _triggers(at, what, found, template)
    # Deletes must carry the tenant, and updates what is stored apart; where nothing is captured FULL would only cost.
    identity, name = ("f", "FULL") if model.analytics else ("d", "DEFAULT")
    if found.identity != identity:
        yield change(f"set replica identity {name} on {what}", f"ALTER TABLE %I.%I REPLICA IDENTITY {name}", *at)
    yield from _publication(at, what, model, found)
    yield from _rights(at, what, model, module, found)


def _policies(at: tuple[str, str], what: str, found: Table, template: Table) -> Iterator[Change]:
    for name in sorted(found.policies):
        # Policies are joined by OR: one more is one too many.
        if found.policies[name] != template.policies.get(name):
            yield change(f"dropped policy {name} on {what}", "DROP POLICY %I ON %I.%I", name, *at)
    for name, policy in template.policies.items():
        if found.policies.get(name) != policy:
            expressions = f"USING ({policy.using}) WITH CHECK ({policy.check})".replace("%", "%%")
            yield change(f"created policy {name} on {what}", f"CREATE POLICY %I ON %I.%I {expressions}", name, *at)


def _triggers(at: tuple[str, str], what: str, found: Table, template: Table) -> Iterator[Change]:
    for name, wanted in template.triggers.items():
        there = found.triggers.get(name)
        if there == wanted:
            continue
        drop = (Statement.of("DROP TRIGGER %I ON %I.%I", name, *at),) if there else ()
        yield Change(f"restored trigger {name} on {what}", (*drop, Statement.of(_TRIGGERS[name], *at)))


def _publication(at: tuple[str, str], what: str, model: Model, found: Table) -> Iterator[Change]:
    if found.published and (found.published == "part" or not model.analytics):
        yield change(f"took {what} out of {CAPTURED}", f"ALTER PUBLICATION {CAPTURED} DROP TABLE %I.%I", *at)
    if model.analytics and found.published != "whole":
        yield change(f"put {what} into {CAPTURED}", f"ALTER PUBLICATION {CAPTURED} ADD TABLE %I.%I", *at)


def _rights(at: tuple[str, str], what: str, model: Model, module: ModuleState, found: Table) -> Iterator[Change]:
    for role in found.column_grantees:
        clause = f"took rights on columns of {what} from {role}"
        if role == "PUBLIC":
            yield change(clause, "REVOKE ALL ON TABLE %I.%I FROM PUBLIC CASCADE", *at)
        else:
            yield change(clause, "REVOKE ALL ON TABLE %I.%I FROM %I CASCADE", *at, role)
    left = [grant for grant in found.grants if grant.rpartition("=")[0] not in found.column_grantees]
    wanted: Collection[str] = [
        *(f"{module.schema}={privilege}" for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE") if module.active),
        *([f"{CDC}=SELECT"] if model.analytics else []),
    ]
    yield from rights(what, "TABLE", found.model_copy(update={"grants": left}), wanted, *at)
