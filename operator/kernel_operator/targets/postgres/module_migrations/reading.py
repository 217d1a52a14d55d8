"""From the text of a migration to statements that are safe to execute.

A module's SQL is a stranger's input, so it is bounded before anything else. That is not only about
size: the parser is C code that recurses over what it parsed without a limit of its own, and 200 kB
of ``1+1+1+...`` end the process; comments nested 20,000 deep take it seconds. Both are refused by
counting, the first over the tokens, which are flat.

What is executed is the text of each statement by itself, cut out here and parsed once more: it must
be the very statement that was checked.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pglast import ast, parse_sql
from pglast.parser import ParseError, Token, scan

from kernel_operator.targets.postgres.module_migrations.nodes import NotAllowed
from kernel_operator.targets.postgres.module_migrations.statements import ALLOWED, Touched, check_statement
from kernel_operator.targets.postgres.session import Refused

MAX_BYTES = 1_000_000
MAX_STATEMENTS = 500
MAX_TOKENS = 50_000
"""Words, numbers and signs: half a second of the parser's time."""
MAX_RUN = 1000
"""Tokens between two commas, with those before the brackets that they stand in: no tree is deeper."""
MAX_COMMENTS = 500

_DOWN = re.compile(r"^[ \t]*--[ \t]*\+goose[ \t]+Down\b", re.MULTILINE | re.IGNORECASE)
"""goose's mark for the way back, which is never taken: versions only grow."""

_COMMENTS = ("SQL_COMMENT", "C_COMMENT")
_OPENING, _CLOSING, _COMMA, _END = ("ASCII_40", "ASCII_91"), ("ASCII_41", "ASCII_93"), "ASCII_44", "ASCII_59"


@dataclass(frozen=True, slots=True)
class Checked:
    """One statement, and the line of the file that it begins in."""

    sql: str
    line: int
    touched: Touched


def read(name: str, text: str, schema: str) -> list[Checked]:
    """The statements of the migration ``name``, each allowed in the module's ``schema``.

    Raises Refused, which names the line and the way out.
    """
    text = up(text)
    tokens = _bounded(name, text)
    try:
        statements = parse_sql(text)
    except (ParseError, UnicodeError) as error:
        raise _unreadable(name, text, error) from None
    if not statements:
        raise Refused(
            "MigrationNotAllowed", f"spec.migrations: {name} holds no statement; write one or remove the file"
        )
    if len(statements) > MAX_STATEMENTS:
        raise _too_large(name, f"{len(statements)} statements", f"at most {MAX_STATEMENTS}")
    checked = []
    for statement, line in zip(statements, _lines(text, tokens, statements), strict=True):
        try:
            touched = check_statement(statement.stmt, schema)
            checked.append(Checked(_alone(text, statement), line, touched))
        except NotAllowed as error:
            raise Refused("MigrationNotAllowed", f"spec.migrations: {name}, line {line}: {error}") from None
    return checked


def up(text: str) -> str:
    """The part of a goose file that leads forward; all of any other file."""
    down = _DOWN.search(text)
    return text[: down.start()] if down else text


def _bounded(name: str, text: str) -> list[Token]:
    """The tokens but for comments. Raises Refused for text that the parser should not be given."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise _too_large(name, f"{size} bytes", f"at most {MAX_BYTES}")
    if "\0" in text:
        raise Refused("MigrationNotAllowed", f"spec.migrations: {name} holds a NUL character; save it as plain text")
    if text.count("/*") > MAX_COMMENTS:
        raise _too_large(name, f"{text.count('/*')} times /*", f"at most {MAX_COMMENTS}")
    try:
        tokens = [token for token in scan(text) if token.name not in _COMMENTS]
    except (ParseError, UnicodeError) as error:
        raise _unreadable(name, text, error) from None
    if len(tokens) > MAX_TOKENS:
        raise _too_large(name, f"{len(tokens)} words and signs", f"at most {MAX_TOKENS}")
    if _longest_run(tokens) > MAX_RUN:
        raise Refused(
            "MigrationNotAllowed",
            f"spec.migrations: {name} has an expression of more than {MAX_RUN} words and signs; make it simpler",
        )
    return tokens


def _longest_run(tokens: Sequence[Token]) -> int:
    """A bound for the depth of the tree: brackets and commas are where a flat list can begin or go on."""
    longest, total, runs = 0, 0, [0]
    for token in tokens:
        if token.name == _END:
            total, runs = 0, [0]
        elif token.name == _COMMA:
            total -= runs[-1]
            runs[-1] = 0
        elif token.name in _CLOSING and len(runs) > 1:
            total -= runs.pop()
        total += 1
        runs[-1] += 1
        longest = max(longest, total)
        if token.name in _OPENING:
            runs.append(0)
    return longest


def _lines(text: str, tokens: Sequence[Token], statements: Sequence[ast.RawStmt]) -> Iterator[int]:
    """The line of each statement's first token; the parser counts the comments before it as its own."""
    starts = iter(tokens)
    line, counted = 1, 0
    for statement in statements:
        first = next(
            token.start for token in starts if token.start >= (statement.stmt_location or 0) and token.name != _END
        )
        line += text.count("\n", counted, first)
        counted = first
        yield line


def _alone(text: str, statement: ast.RawStmt) -> str:
    start = statement.stmt_location or 0
    sql = text[start : start + statement.stmt_len] if statement.stmt_len else text[start:]
    again = parse_sql(sql)
    if len(again) != 1 or again[0].stmt != statement.stmt:
        raise NotAllowed("a statement that reads differently by itself", "move it into a file of its own")
    return sql


def _unreadable(name: str, text: str, error: Exception) -> Refused:
    if isinstance(error, ParseError):
        place = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0
        where, what = f", line {text.count(chr(10), 0, place) + 1}", str(error.args[0])
    else:
        where, what = "", "it is not proper Unicode"
    return Refused(
        "MigrationNotAllowed", f"spec.migrations: {name}{where}: {what[:200]}; a migration may hold {ALLOWED}"
    )


def _too_large(name: str, found: str, limit: str) -> Refused:
    return Refused("MigrationNotAllowed", f"spec.migrations: {name} has {found}, {limit} are allowed; split the file")
