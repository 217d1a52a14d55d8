"""Query parameters: `{name:Type}` in a statement, `param_name=value` in the request.

They are written into the statement as typed literals. The engine could bind them itself, but not inside the
temporary view through which other users read (reading.py), and one way for all is easier to trust.
"""

import re
from collections.abc import Mapping

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.errors import error
from kernel_local.clickhouse.tokens import quote_identifier, quote_string, tokenize

_STRING_TYPE = re.compile(r"(LowCardinality\()?(Nullable\()?(String|FixedString\(\d+\)|Enum\d*\(.*\))\)*", re.S)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}


def bind(statement: str, values: Mapping[str, str], *, all_must_be_set: bool = True) -> str:
    """Fills in the parameters of a statement, outside strings and quoted names only.

    Args:
        statement: SQL with `{name:Type}` places.
        values: the text of each value as HTTP clients send it (tab-separated escapes, `\\N` for NULL).
        all_must_be_set: False leaves unknown places alone, as a parameterized view needs.

    Raises:
        ClickHouseError: UNKNOWN_QUERY_PARAMETER where a value is missing.
    """
    if "{" not in statement:
        return statement
    tokens = tokenize(statement)
    pieces = []
    done = 0
    for index, token in enumerate(tokens):
        opens = token.kind == "symbol" and token.text == "{" and token.start >= done
        if not opens or index + 3 >= len(tokens) or tokens[index + 1].kind != "word" or tokens[index + 2].text != ":":
            continue
        closing = next((one for one in tokens[index + 3 :] if one.kind == "symbol" and one.text == "}"), None)
        if closing is None:
            break
        name = tokens[index + 1].text
        if name not in values:
            if all_must_be_set:
                raise error(errors.UNKNOWN_QUERY_PARAMETER, f"Substitution `{name}` is not set")
            continue
        kind = statement[tokens[index + 3].start : closing.start].strip()
        pieces += [statement[done : token.start], _literal(kind, values[name])]
        done = closing.end
    return "".join([*pieces, statement[done:]])


def _literal(kind: str, value: str) -> str:
    if kind == "Identifier":
        return quote_identifier(_unescape(value))
    if value == "\\N":
        return f"CAST(NULL AS {kind})"
    if _STRING_TYPE.fullmatch(kind):
        value = _unescape(value)
    return f"CAST({quote_string(value)} AS {kind})"


def _unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), value, flags=re.S)
