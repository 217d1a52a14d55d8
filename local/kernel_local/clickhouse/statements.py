"""What a statement is: its kind, from the engine's normal form, and the head of an INSERT that carries data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.errors import error
from kernel_local.clickhouse.tokens import Token, at_depth_zero, iterate, tokenize

# First words of the normal form -> kind. What is not here has no kind and is refused to everybody.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"SELECT|WITH|(?=\()", "select"),
    (r"INSERT INTO", "insert_select"),
    (r"(CREATE|ALTER|DROP) (USER|ROW POLICY)|GRANT|REVOKE", "access"),
    (r"CREATE( OR REPLACE)? TABLE", "create_table"),
    (r"CREATE( OR REPLACE)?( MATERIALIZED)? VIEW", "create_view"),
    (r"CREATE DATABASE", "create_database"),
    (r"ALTER TABLE", "alter_table"),
    (r"DROP TABLE", "drop_table"),
    (r"DROP VIEW", "drop_view"),
    (r"DROP DATABASE", "drop_database"),
    (r"TRUNCATE TABLE", "truncate"),
    (r"RENAME TABLE|EXCHANGE TABLES", "rename"),
    (r"OPTIMIZE TABLE", "optimize"),
    (r"DELETE FROM", "delete"),
    (r"UPDATE", "update"),
    (r"DESCRIBE TABLE", "describe"),
    (r"EXISTS (TABLE|VIEW|DATABASE)", "exists"),
    (r"SHOW (CREATE (TABLE|VIEW|DATABASE)|TABLES|DATABASES|COLUMNS|GRANTS|USERS|(ROW )?POLICIES|PROCESSLIST)", "show"),
    (r"EXPLAIN", "explain"),
    (r"CHECK TABLE", "check"),
    (r"KILL (QUERY|MUTATION)", "kill"),
    (r"SET(?! (DEFAULT )?ROLE| TRANSACTION)", "set"),
    (r"USE", "use"),
    (
        r"SYSTEM (FLUSH LOGS|RELOAD USERS|(STOP|START) (TTL )?MERGES|DROP [A-Z ]+ CACHE)",
        "system",
    ),
)
PATTERNS = tuple((re.compile(rf"(?:{words})(?!\w)"), kind) for words, kind in _KINDS)


def kind_of(normal: str) -> str:
    """The kind of a statement in normal form, `""` where this server knows none."""
    return next((kind for pattern, kind in PATTERNS if pattern.match(normal)), "")


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT that carries data: the statement before FORMAT, the format, and where the data begin in bytes."""

    head: str
    input_format: str
    data_start: int


def insert_with_data(statement: bytes) -> Insert | None:
    """Splits `INSERT INTO t (c) [SETTINGS ...] FORMAT X <data>` or `... VALUES <data>`; None for anything else.

    Only the head is looked at as text, because the data may be of any bytes (latin-1 keeps offsets).
    """
    text = statement[:65536].decode("latin-1")
    tokens = iterate(text)
    first, second = next(tokens, None), next(tokens, None)
    if first is None or second is None or not first.is_word("INSERT") or not second.is_word("INTO"):
        return None
    depth = 0
    for token in tokens:
        if token.kind == "symbol":
            depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth or token.kind != "word":
            continue
        if token.is_word("SELECT", "WITH", "FROM", "FUNCTION", "WATCH"):
            return None
        if token.is_word("VALUES"):
            return Insert(_utf8(text[: token.start]), "Values", token.end)
        if token.is_word("FORMAT"):
            name = next(tokens, None)
            if name is None or name.kind != "word":
                return None
            # Blanks and one line feed separate the format's name from the data.
            gap = re.compile(r"[ \t\r]*\n?").match(text, name.end)
            return Insert(_utf8(text[: token.start]), name.text, gap.end() if gap else name.end)
    return None


def _utf8(latin: str) -> str:
    return latin.encode("latin-1").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Query:
    """A SELECT taken apart: its text without the clauses at the end, its output format, its settings."""

    text: str
    output_format: str | None
    settings: dict[str, str]


def split_query(normal: str) -> Query:
    """Takes FORMAT and SETTINGS off the end of a query in normal form."""
    tokens = tokenize(normal)
    output_format = None
    settings: dict[str, str] = {}
    while True:
        outer = [index for index, _ in at_depth_zero(tokens)]
        if len(tokens) > 2 and tokens[-2].is_word("FORMAT") and outer[-2:] == [len(tokens) - 2, len(tokens) - 1]:
            output_format = tokens[-1].value
            tokens = tokens[:-2]
            continue
        start = max((index for index in outer if tokens[index].is_word("SETTINGS")), default=0)
        found = read_settings(tokens[start + 1 :]) if start else None
        if found is None:
            break
        settings |= found
        tokens = tokens[:start]
    return Query(normal[: tokens[-1].end] if tokens else "", output_format, settings)


def split_insert_select(normal: str) -> tuple[str, str, dict[str, str]]:
    """Takes `INSERT INTO t [(columns)] [SETTINGS ...] SELECT ...` in normal form apart: head, query, settings.

    Raises:
        ClickHouseError: the query is not a plain SELECT or WITH.
    """
    tokens = tokenize(normal)
    outer = [token for _, token in at_depth_zero(tokens)]
    start = next((token for token in outer if token.is_word("SELECT", "WITH")), None)
    if start is None:
        raise error(errors.NOT_IMPLEMENTED, "The development server inserts from SELECT or WITH only")
    head, query = split_query(normal[: start.start].rstrip()), split_query(normal[start.start :])
    return head.text, query.text, head.settings | query.settings


def read_settings(tokens: Sequence[Token]) -> dict[str, str] | None:
    """Reads `name = value, ...` to the end; None if that is not what the tokens are."""
    settings = {}
    position = 0
    while True:
        name, equals = [*tokens[position : position + 2], None, None][:2]
        if name is None or equals is None or name.kind not in ("word", "quoted") or equals.text != "=":
            return None
        position += 2
        sign = ""
        if position < len(tokens) and tokens[position].text == "-":
            sign, position = "-", position + 1
        if position >= len(tokens) or tokens[position].kind not in ("string", "number", "word"):
            return None
        settings[name.value] = sign + tokens[position].value
        position += 1
        if position == len(tokens):
            return settings
        if tokens[position].text != ",":
            return None
        position += 1


def settings_inside(normal: str) -> set[str]:
    """Names in all SETTINGS clauses of a statement, wherever they stand.

    Raises:
        ClickHouseError: a clause is not of the form `name = literal, ...`.
    """
    tokens = tokenize(normal)
    names = set()
    for index, token in enumerate(tokens):
        # In normal form keywords are in capitals; a column of that very name would have to be quoted.
        if token.kind != "word" or token.text != "SETTINGS" or (index and tokens[index - 1].text == "."):
            continue
        position = index + 1
        while position + 2 < len(tokens) and tokens[position + 1].text == "=":
            names.add(tokens[position].value)
            position += 4 if tokens[position + 2].text == "-" else 3
            if position >= len(tokens) or tokens[position].text != ",":
                break
            position += 1
        if position == index + 1:
            raise error(errors.BAD_ARGUMENTS, "This form of SETTINGS is not supported here")
    return names
