"""Pure parts: tokens, heads of inserts, clauses at the end of a query, parameters, policies in combination."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_local.clickhouse.errors import ClickHouseError
from kernel_local.clickhouse.parameters import bind
from kernel_local.clickhouse.state import AccessState, Grant, RowPolicy, load, save
from kernel_local.clickhouse.statements import insert_with_data, kind_of, settings_inside, split_query
from kernel_local.clickhouse.tokens import quote_identifier, quote_string, tokenize


@given(st.text())
def test_tokens_cover_the_text_in_order(text) -> None:
    tokens = tokenize(text)
    assert [text[one.start : one.end] for one in tokens] == [one.text for one in tokens]
    assert all(a.end <= b.start for a, b in pairwise(tokens))


@given(st.text(st.characters(exclude_characters="\n\t\r\0\b\f\a\v", exclude_categories=["Cs"])))
def test_quoting_makes_one_token_of_anything(text) -> None:
    for quote in (quote_string, quote_identifier):
        (token,) = tokenize(quote(text))
        assert token.value == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_bound_string_stays_one_literal(value) -> None:
    bound = bind("SELECT {p:String}, '{p:String}'", {"p": value})
    texts = [one.text for one in tokenize(bound)]
    assert texts[:3] == ["SELECT", "CAST", "("]
    assert texts[4:] == ["AS", "String", ")", ",", "'{p:String}'"]


@pytest.mark.parametrize(
    ("statement", "head", "input_format", "data"),
    [
        (b"INSERT INTO t FORMAT Native\n\x01\xff\n", "INSERT INTO t ", "Native", b"\x01\xff\n"),
        (b"insert into t (a, b) values (1, 'FORMAT')", "insert into t (a, b) ", "Values", b" (1, 'FORMAT')"),
        (b"INSERT INTO t(`FORMAT`) FORMAT CSV 1", "INSERT INTO t(`FORMAT`) ", "CSV", b"1"),
        (
            b"/* x */ INSERT INTO t -- FORMAT CSV\n FORMAT TSV\n\n",
            "/* x */ INSERT INTO t -- FORMAT CSV\n ",
            "TSV",
            b"\n",
        ),
    ],
)
def test_heads_of_inserts(statement, head, input_format, data) -> None:
    insert = insert_with_data(statement)
    assert insert is not None
    assert (insert.head, insert.input_format, statement[insert.data_start :]) == (head, input_format, data)


@pytest.mark.parametrize(
    "statement",
    [b"INSERT INTO t SELECT 1 FORMAT CSV", b"INSERT INTO FUNCTION file('x') FORMAT CSV\n1", b"SELECT 1 FORMAT CSV",
     b"INSERT INTO t FROM INFILE 'x' FORMAT CSV", b"INSERT INTO t WITH x AS (SELECT 1) SELECT 1", b"", b"\xff"],
)  # fmt: skip
def test_what_carries_no_data(statement) -> None:
    assert insert_with_data(statement) is None


@pytest.mark.parametrize(
    ("normal", "text", "output_format", "settings"),
    [
        ("SELECT 1", "SELECT 1", None, {}),
        ("SELECT 1 FORMAT JSON", "SELECT 1", "JSON", {}),
        ("SELECT 1 SETTINGS a = 1, b = 'x' FORMAT JSON", "SELECT 1", "JSON", {"a": "1", "b": "x"}),
        ("SELECT 1 FORMAT JSON SETTINGS a = -1", "SELECT 1", "JSON", {"a": "-1"}),
        ("SELECT 1 AS FORMAT", "SELECT 1 AS FORMAT", None, {}),
        ("SELECT (SELECT 1 SETTINGS a = 1)", "SELECT (SELECT 1 SETTINGS a = 1)", None, {}),
        ("SELECT 'x FORMAT JSON'", "SELECT 'x FORMAT JSON'", None, {}),
    ],
)
def test_clauses_at_the_end(normal, text, output_format, settings) -> None:
    query = split_query(normal)
    assert (query.text, query.output_format, query.settings) == (text, output_format, settings)


def test_settings_are_found_at_any_depth() -> None:
    normal = "SELECT (SELECT 1 SETTINGS a = 1, b = -2) FROM system.settings SETTINGS c = 'SETTINGS d = 1'"
    assert settings_inside(normal) == {"a", "b", "c"}
    with pytest.raises(ClickHouseError):
        settings_inside("SELECT 1 SETTINGS {a}")


@pytest.mark.parametrize(
    "normal",
    ["ATTACH TABLE t", "DETACH TABLE t", "BACKUP TABLE t TO File('x')", "CREATE FUNCTION f AS x -> x", "EXECUTE AS x",
     "CREATE NAMED COLLECTION c AS a = 1", "SYSTEM SHUTDOWN", "SET ROLE x", "CREATE TEMPORARY TABLE t", "SELECTED",
     "MOVE USER x TO y", "DROP DICTIONARY d", "CREATE ROLE r", "CREATE QUOTA q", "SHOW ACCESS", "UNDROP TABLE t"],
)  # fmt: skip
def test_unknown_kinds_have_no_kind(normal) -> None:
    assert kind_of(normal) == ""


_NAMES = st.sampled_from("abc")
_POLICIES = st.tuples(st.sampled_from("pq"), st.booleans(), st.sets(_NAMES), st.sets(_NAMES))


@given(st.sets(_NAMES), st.dictionaries(_NAMES, st.sets(st.sampled_from(["SELECT", "INSERT"]))), st.lists(_POLICIES))
def test_all_rights_are_those_of_each_user(users, grants, policies) -> None:
    state = AccessState(
        dict.fromkeys(users, "0" * 64),
        {user: frozenset(Grant(one) for one in held) for user, held in grants.items()},
        {
            (name, "a", "t"): RowPolicy(name, "a", "t", "1", False, to_all, tuple(to), tuple(excepted))
            for name, to_all, to, excepted in policies
        },
    )
    assert state.all_rights() == {state.rights(user) for user in users}


def test_state_survives_saving(tmp_path) -> None:
    state = AccessState(
        {"u": "0" * 64},
        {"u": frozenset({Grant("SELECT", "a", "t", ("x",), True), Grant("ALL")})},
        {("p", "a", "t"): RowPolicy("p", "a", "t", "x = '1'", True, True, (), ("u",))},
    )
    save(state, tmp_path / "access.json")
    assert load(tmp_path / "access.json") == state
    assert load(tmp_path / "absent.json") == AccessState()


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=6))
def test_conditions_combine_as_clickhouse_does(drawn) -> None:
    """Each policy: (names the user, restrictive, its condition's value)."""
    state = AccessState()
    for number, (named, restrictive, value) in enumerate(drawn):
        policy = RowPolicy(f"p{number}", "d", "t", str(value), restrictive, to=("u",) if named else ("other",))
        state.policies[policy.key] = policy
    condition = state.condition(state.rights("u"), "d", "t")
    if not drawn:
        assert condition is None
        return
    python = condition.replace("AND", "and").replace("OR", "or")
    mine = [(restrictive, value) for named, restrictive, value in drawn if named]
    expected = any(value for restrictive, value in mine if not restrictive) and all(
        value for restrictive, value in mine if restrictive
    )
    assert bool(eval(python)) == expected
