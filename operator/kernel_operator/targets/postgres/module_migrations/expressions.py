"""Expressions in defaults, checks, indexes and inserted values.

Built from constants, columns of the row, PostgreSQL's own operators, and functions of a short list.
Nothing here can read a table, so nothing needs to know whose rows it would see. Names are never
resolved: an expression has to be harmless whatever a name may turn out to mean, which holds because
only names of ``pg_catalog`` are in the lists and a module's schema can hold neither functions nor
operators (the catalogue check refuses them).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pglast import ast
from pglast.enums import A_Expr_Kind, SQLValueFunctionOp

from kernel_operator.targets.postgres.module_migrations.builtin_types import check_collation, check_type
from kernel_operator.targets.postgres.module_migrations.nodes import MAX_DEPTH, NotAllowed, names, only

_STEADY = (
    "abs btrim cardinality array_length ceil ceiling char_length character_length coalesce concat date_part date_trunc "
    "encode extract floor json_array_length json_typeof jsonb_array_length jsonb_build_array jsonb_build_object "
    "jsonb_typeof left length lower ltrim make_date md5 mod now num_nonnulls num_nulls octet_length position "
    "right round rtrim sha256 sign starts_with statement_timestamp strpos substr substring timezone to_tsvector "
    "transaction_timestamp trunc upper"
)
STEADY = frozenset(_STEADY.split())
"""Immutable or stable: the same value all through a statement, and none can make a large value from a small one."""

FRESH = frozenset(("gen_random_uuid", "uuidv4", "uuidv7"))
"""Volatile, but only ever new ids."""

_CLOCK = frozenset(
    (
        SQLValueFunctionOp.SVFOP_CURRENT_DATE,
        SQLValueFunctionOp.SVFOP_CURRENT_TIME,
        SQLValueFunctionOp.SVFOP_CURRENT_TIME_N,
        SQLValueFunctionOp.SVFOP_CURRENT_TIMESTAMP,
        SQLValueFunctionOp.SVFOP_CURRENT_TIMESTAMP_N,
        SQLValueFunctionOp.SVFOP_LOCALTIME,
        SQLValueFunctionOp.SVFOP_LOCALTIME_N,
        SQLValueFunctionOp.SVFOP_LOCALTIMESTAMP,
        SQLValueFunctionOp.SVFOP_LOCALTIMESTAMP_N,
    )
)

_SIGNS = "= <> < <= > >= + - * / % || ~ ~* !~ !~* ~~ ~~* !~~ !~~* @> <@ && ? ?| ?& -> ->> #> #>> & | # << >> @@"
_OPERATORS = frozenset(_SIGNS.split())
_BETWEEN = frozenset(("BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC"))
_BETWEEN_KINDS = frozenset(
    (
        A_Expr_Kind.AEXPR_BETWEEN,
        A_Expr_Kind.AEXPR_NOT_BETWEEN,
        A_Expr_Kind.AEXPR_BETWEEN_SYM,
        A_Expr_Kind.AEXPR_NOT_BETWEEN_SYM,
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an expression stands, and so what it may hold."""

    name: str
    functions: frozenset[str]
    columns: bool = False
    default: bool = False
    """The word DEFAULT."""


DEFAULT = Place("a default", STEADY | FRESH)
ADDED = Place("the default of an added column", STEADY)
"""A volatile one would rewrite the whole table under an exclusive lock."""
CHECK = Place("a check", STEADY, columns=True)
GENERATED = Place("a generated column", STEADY, columns=True)
INDEX = Place("an index", STEADY, columns=True)
VALUE = Place("a value", STEADY | FRESH, default=True)


def check_expression(node: object, place: Place, depth: int = 0) -> None:
    """Raises NotAllowed unless ``node`` is made of what ``place`` may hold."""
    if depth > MAX_DEPTH:
        raise NotAllowed(f"an expression nested more than {MAX_DEPTH} deep", "make it simpler")
    if node is None or isinstance(node, IntEnum | int | str):
        return
    if isinstance(node, tuple | list):
        for item in node:
            check_expression(item, place, depth + 1)
        return
    rule = _RULES.get(type(node))
    if rule is None:
        raise NotAllowed(f"{_said(node)} in {place.name}", "use constants, columns and plain functions")
    assert isinstance(node, ast.Node)
    for inner in rule(node, place):
        check_expression(inner, place, depth + 1)


Inner = tuple[object, ...]


def _const(node: ast.A_Const, place: Place) -> Inner:
    return ()


def _cast(node: ast.TypeCast, place: Place) -> Inner:
    check_type(node.typeName)
    only(node, "arg", "typeName", what="a cast")
    return (node.arg,)


def _collate(node: ast.CollateClause, place: Place) -> Inner:
    check_collation(node)
    return (node.arg,)


def _column(node: ast.ColumnRef, place: Place) -> Inner:
    path = names(node.fields)
    if not place.columns:
        raise NotAllowed(f"the name {'.'.join(path)} in {place.name}", "use constants; text stands in 'single quotes'")
    if len(path) != 1:
        raise NotAllowed(f"the name {'.'.join(path)} in {place.name}", "write the column's name alone")
    return ()


def _call(node: ast.FuncCall, place: Place) -> Inner:
    path = names(node.funcname)
    *schema, name = path
    if schema not in ([], ["pg_catalog"]) or name not in place.functions:
        raise NotAllowed(f"the function {'.'.join(path)}() in {place.name}", _instead_of(name, place))
    only(node, "funcname", "args", "funcformat", what=f"the function {name}()")
    return (node.args,)


def _instead_of(name: str, place: Place) -> str:
    if place is ADDED and name in FRESH:
        return "the table would be rewritten; add the column first, then SET DEFAULT for rows to come"
    if name in ("clock_timestamp", "timeofday"):
        return "it differs from row to row; use now()"
    if name in ("nextval", "currval", "lastval", "setval"):
        return "a sequence tells each tenant how much the others write; use uuidv7()"
    return f"there is a short list: {', '.join(sorted(place.functions))}"


def _operation(node: ast.A_Expr, place: Place) -> Inner:
    path = names(node.name)
    *schema, name = path
    known = _BETWEEN if node.kind in _BETWEEN_KINDS else _OPERATORS
    if schema not in ([], ["pg_catalog"]) or name not in known:
        raise NotAllowed(f"the operator {'.'.join(path)} in {place.name}", "use comparison, arithmetic or ||")
    only(node, "kind", "name", "lexpr", "rexpr", what="an operator")
    return node.lexpr, node.rexpr


def _clock(node: ast.SQLValueFunction, place: Place) -> Inner:
    if node.op not in _CLOCK:
        raise NotAllowed(f"the name of the user or schema in {place.name}", "use constants")
    return ()


def _default(node: ast.SetToDefault, place: Place) -> Inner:
    if not place.default:
        raise NotAllowed(f"DEFAULT in {place.name}", "write the value")
    return ()


def _plain(*inner: str) -> Callable[[Any, Place], Inner]:
    """A node that is as harmless as what it holds."""

    def rule(node: ast.Node, place: Place) -> Inner:
        harmless = ("boolop", "op", "nulltesttype", "booltesttype")
        only(node, *inner, *harmless, what=_said(node))
        return tuple(getattr(node, name) for name in inner)

    return rule


def _said(node: object) -> str:
    if isinstance(node, ast.SubLink):
        return "a subquery"
    if isinstance(node, ast.ParamRef):
        return "a parameter"
    return f"the syntax {type(node).__name__}"


_RULES: dict[type, Callable[[Any, Place], Inner]] = {
    ast.A_Const: _const,
    ast.TypeCast: _cast,
    ast.CollateClause: _collate,
    ast.ColumnRef: _column,
    ast.FuncCall: _call,
    ast.A_Expr: _operation,
    ast.SQLValueFunction: _clock,
    ast.SetToDefault: _default,
    ast.BoolExpr: _plain("args"),
    ast.NullTest: _plain("arg"),
    ast.BooleanTest: _plain("arg"),
    ast.CoalesceExpr: _plain("args"),
    ast.MinMaxExpr: _plain("args"),
    ast.CaseExpr: _plain("arg", "args", "defresult"),
    ast.CaseWhen: _plain("expr", "result"),
    ast.A_ArrayExpr: _plain("elements"),
}
