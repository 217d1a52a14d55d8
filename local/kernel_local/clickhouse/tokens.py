"""Tokens of a ClickHouse statement, enough to find clauses without being fooled by strings, quotes or comments."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|\#!?\ [^\n]*|/\*.*?\*/)
      |(?P<string>'(?:[^'\\]|\\.|'')*'|\$\w*\$.*?\$\w*\$)
      |(?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
      |(?P<number>\d[\w.]*)
      |(?P<word>[A-Za-z_]\w*)
      |(?P<symbol>.)""",
    re.S | re.X,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind (string, quoted, number, word, symbol), its text, and where it starts and ends."""

    kind: str
    text: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords (upper case), unquoted."""
        return self.kind == "word" and self.text.upper() in words

    @property
    def value(self) -> str:
        """The identifier's or string's content, without quotes and escapes."""
        if self.kind not in ("string", "quoted"):
            return self.text
        quote = self.text[0]
        if quote == "$":
            return self.text[self.text.index("$", 1) + 1 : self.text.rindex("$", 0, -1)]
        inner = self.text[1:-1].replace(quote * 2, quote)
        return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), inner, flags=re.S)


def iterate(text: str) -> Iterator[Token]:
    """The tokens of a statement one by one, without white space and comments."""
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or "symbol"
        if kind != "space":
            yield Token(kind, found[0], found.start(), found.end())


def tokenize(text: str) -> list[Token]:
    """All tokens of a statement."""
    return list(iterate(text))


def at_depth_zero(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    """Index and token of those outside all brackets."""
    depth = 0
    for index, token in enumerate(tokens):
        if token.kind == "symbol" and token.text in ")]}":
            depth -= 1
        if depth == 0:
            yield index, token
        if token.kind == "symbol" and token.text in "([{":
            depth += 1


class Cursor:
    """Reads a token list from left to right."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.index = 0

    @property
    def peek(self) -> Token | None:
        """The next token, or None at the end."""
        return self.tokens[self.index] if self.index < len(self.tokens) else None

    def accept(self, *words: str) -> bool:
        """Moves past these keywords or symbols if they come next, all of them."""
        ahead = self.tokens[self.index : self.index + len(words)]
        if len(ahead) < len(words) or any(
            not token.is_word(word) and (token.kind != "symbol" or token.text != word)
            for token, word in zip(ahead, words, strict=True)
        ):
            return False
        self.index += len(words)
        return True

    def name(self) -> str | None:
        """The next identifier (a string literal counts, as in user names), or None if something else comes."""
        token = self.peek
        if token is None or token.kind not in ("word", "quoted", "string"):
            return None
        self.index += 1
        return token.value

    def table(self) -> tuple[str | None, str] | None:
        """The next `[database.]table` as (database or None, table), or None."""
        first = self.name()
        if first is None:
            return None
        if not self.accept("."):
            return None, first
        second = self.name()
        return None if second is None else (first, second)


def quote_identifier(name: str) -> str:
    """A name in back quotes, safe in any statement."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quote_if_needed(name: str) -> str:
    """A name as ClickHouse prints it: in back quotes only where it must."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.A) else quote_identifier(name)


def quote_string(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
