"""Names and values can't become SQL."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_operator.targets.clickhouse.quoting import identifier, literal, parameter


@pytest.mark.parametrize("name", ["", "a b", "a`b", "a.b", "a;b", "a'b", "1a", "a\n", "ä", "a" * 201, "a\0", "a\\"])
def test_strange_names_are_refused(name):
    with pytest.raises(ValueError, match="not a name"):
        identifier(name)


def test_the_names_we_have_are_let_through():
    for name in ("module_crm__contacts", "tenant_0190f1c2-0000-5000-8000-000000000000", "_lsn", "select"):
        assert identifier(name) == f"`{name}`"


@given(st.text(max_size=60))
async def test_any_text_comes_back_as_it_was(text):
    quoted = literal(text)
    assert quoted[0] == quoted[-1] == "'"
    inner = quoted[1:-1]
    assert "'" not in inner.replace("\\\\", "").replace("\\'", "")


@pytest.mark.parametrize(
    "text", ["", "plain", "it's", "back\\slash", "tab\tnew\nline", "'; DROP", "ünï", "\\N", "a\0b"]
)
async def test_values_survive_the_way_to_the_server_and_back(target, text):
    client = target._client
    assert await client.rows("SELECT {t:String} AS x", t=text) == [{"x": text}]
    assert await client.rows("SELECT {t:Array(String)} AS x", t=[text, "b"]) == [{"x": [text, "b"]}]
    assert await client.rows(f"SELECT {literal(text)} AS x") == [{"x": text}]
    assert parameter(7) == "7"
