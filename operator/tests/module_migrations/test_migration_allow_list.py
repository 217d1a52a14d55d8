"""What a migration may hold, and that nothing else gets through, by whatever spelling."""

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from migration_texts import HONEST, HOSTILE
from pglast import ast, parse_sql

from kernel_operator.targets.postgres.module_migrations.reading import MAX_RUN, read
from kernel_operator.targets.postgres.session import Refused

SCHEMA = "module_crm"

_NODES = """
CreateStmt AlterTableStmt AlterTableCmd IndexStmt IndexElem InsertStmt SelectStmt CreateSeqStmt DefElem CommentStmt
ColumnDef Constraint RangeVar TypeName CollateClause String Integer Float Boolean BitString A_Const TypeCast ColumnRef
FuncCall A_Expr SQLValueFunction SetToDefault BoolExpr NullTest BooleanTest CoalesceExpr MinMaxExpr CaseExpr CaseWhen
A_ArrayExpr ResTarget
"""
SAFE_NODES = frozenset(_NODES.split())


def refusal(text: str) -> str:
    with pytest.raises(Refused) as caught:
        read("0001_x.sql", text, SCHEMA)
    assert caught.value.refusal.reason == "MigrationNotAllowed"
    assert "0001_x.sql" in caught.value.refusal.message
    return caught.value.refusal.message


def accepted(text: str) -> bool:
    try:
        read("0001_x.sql", text, SCHEMA)
    except Refused:
        return False
    return True


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_texts_are_refused_by_name(what: str) -> None:
    text, expected = HOSTILE[what]
    started = time.monotonic()
    message = refusal(text)
    assert time.monotonic() - started < 5
    assert re.search(expected if expected.startswith("/") else re.escape(expected), message), message
    assert len(message) < 1200
    assert "\n" not in message


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 60
    assert len(HONEST) >= 20


@pytest.mark.parametrize("what", HONEST)
def test_honest_texts_are_accepted(what: str) -> None:
    for statement in read("0001_x.sql", HONEST[what], SCHEMA):
        assert parse_sql(statement.sql)


def test_the_line_of_the_statement_is_named() -> None:
    text = "-- a\nCREATE TABLE é (\n tenant_id uuid NOT NULL);\n\n/* b\n*/ -- ünd\n  GRANT ALL ON é TO PUBLIC;"
    assert "0001_x.sql, line 7: GRANT" in refusal(text)
    assert "line 2: syntax error" in refusal("\nCREATE TABEL x ()")
    lines = [one.line for one in read("x.sql", "CREATE SEQUENCE a;\n\n; \n CREATE SEQUENCE b", SCHEMA)]
    assert lines == [1, 4]


def test_each_statement_is_cut_out_whole() -> None:
    text = "COMMENT ON TABLE t IS 'ä; ö'; -- ü;\nCOMMENT ON TABLE \"€\" IS $x$;$x$ ; COMMENT ON TABLE w IS 'z'"
    found = read("x.sql", text, SCHEMA)
    assert [parse_sql(one.sql)[0].stmt.comment for one in found] == ["ä; ö", ";", "z"]
    assert [one.touched.owned for one in found] == [("t",), ("€",), ("w",)]


def test_what_is_touched() -> None:
    [made, altered] = read(
        "x.sql",
        HONEST["reference"] + "; ALTER TABLE module_crm.lines ADD FOREIGN KEY (tenant_id, a) "
        "REFERENCES contacts (tenant_id, id) ON DELETE CASCADE",
        SCHEMA,
    )
    assert (list(made.touched.owned), list(made.touched.referenced)) == ([], ["deals"])
    assert (list(altered.touched.owned), list(altered.touched.referenced)) == (["lines"], ["contacts"])


def test_what_may_be_long_is_not_taken_for_deep() -> None:
    words = ", ".join(f"'{n}'" for n in range(3 * MAX_RUN))
    assert accepted(f"ALTER TABLE t ADD CHECK (a IN ({words}))")
    assert accepted("INSERT INTO t VALUES " + ", ".join(["(1, 'x', abs(-2))"] * MAX_RUN))


def kinds(node: Any) -> set[str]:
    """The class of every node below, found without the code under test."""
    if isinstance(node, list | tuple):
        return set().union(*map(kinds, node)) if node else set()
    if not isinstance(node, ast.Node):
        return set()
    return {type(node).__name__}.union(*(kinds(getattr(node, name)) for name in node))


def named(node: Any) -> set[tuple[str | None, str | None]]:
    if isinstance(node, list | tuple):
        return set().union(*map(named, node)) if node else set()
    if not isinstance(node, ast.Node):
        return set()
    own = {(node.catalogname, node.schemaname)} if isinstance(node, ast.RangeVar) else set()
    return own.union(*(named(getattr(node, name)) for name in node))


def require_safe(text: str) -> None:
    for statement in read("x.sql", text, SCHEMA):
        [raw] = parse_sql(statement.sql)
        assert kinds(raw.stmt) <= SAFE_NODES
        assert named(raw.stmt) <= {(None, None), (None, SCHEMA)}


@pytest.mark.parametrize("what", HONEST)
def test_accepted_trees_hold_only_known_nodes(what: str) -> None:
    require_safe(HONEST[what])


SHORT = {
    what: text
    for what, (text, _) in HOSTILE.items()
    # The first is as good as what it stands beside, and the case is all that is wrong with the second.
    if len(text) < 500 and what not in ("no statement", "schema of other case")
}
PIECES = sorted(
    {piece for text in (*SHORT.values(), *HONEST.values()) for piece in re.findall(r"\w+|[^\w\s]|'[^']*'", text)}
)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_whatever_is_accepted_is_safe(data: st.DataObject) -> None:
    """Pieces of all texts put into an honest one, or a row of them."""
    text = data.draw(st.sampled_from(sorted(HONEST.values())))
    tokens = re.findall(r"\s+|\w+|[^\w\s]", text)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        new = data.draw(st.lists(st.sampled_from(PIECES), max_size=4))
        tokens[at : at + data.draw(st.integers(0, 2))] = [f" {piece} " for piece in new]
    mutated = "".join(tokens)
    if accepted(mutated):
        require_safe(mutated)


def _escaped(text: str) -> str:
    r"""Every quoted or plain name as U&"\XXXX..."."""

    def escape(match: re.Match[str]) -> str:
        return 'U&"' + "".join(f"\\{ord(letter):04x}" for letter in match.group(0)) + '"'

    return re.sub(r"\b(kernel|module_other|tenants|kernel_operator)\b", escape, text)


MUTATIONS = {
    "upper": str.upper,
    "lower": str.lower,
    "swapped": str.swapcase,
    "comments": lambda text: text.replace(" ", " /* ; -- ' */ "),
    "nested comments": lambda text: text.replace(" ", "/*/**/*/ "),
    "line comments": lambda text: text.replace(" ", " -- ' $$ \"\n "),
    "whitespace": lambda text: text.replace(" ", "\t\r\n\f\v "),
    "escapes": _escaped,
    "quotes": lambda text: re.sub(r"\b(kernel|module_other|tenants|kernel_operator)\b", r'"\1"', text),
    "behind honest": lambda text: f"{HONEST['table']};\n{text};\n{HONEST['sequence']}",
    "behind a lone quote": lambda text: f"COMMENT ON TABLE t IS ''';';{text}",
    "behind an escape string": lambda text: f"COMMENT ON TABLE t IS E'\\';--';{text}",
    "behind goose": lambda text: f"-- +goose Up\n{text}\n-- +goose Down\n",
    "byte order mark": lambda text: f"\ufeff{text}",
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutated_hostile_texts_stay_refused(mutation: str) -> None:
    assert [what for what, text in SHORT.items() if accepted(MUTATIONS[mutation](text))] == []


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SHORT)), st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=4))
def test_mutations_together_stay_refused(what: str, mutations: list[str]) -> None:
    text = SHORT[what]
    for mutation in mutations:
        text = MUTATIONS[mutation](text)
    assert not accepted(text), text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_refused_or_safe(text: str) -> None:
    if accepted(text):
        require_safe(text)
