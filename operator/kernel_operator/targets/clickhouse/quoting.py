"""Names and values in ClickHouse SQL.

Access statements take no query parameters for names, so names are written into the text. Only names
that can't mean anything else are let through; whatever else is a fault of ours, not a thing to escape.
"""

import re
from collections.abc import Sequence
from uuid import UUID

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,199}")
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"}


def identifier(name: str) -> str:
    """``name`` in backquotes. Raises ValueError for anything but letters, digits, ``_`` and ``-``."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name for ClickHouse: {name!r}")
    return f"`{name}`"


def qualified(database: str, table: str) -> str:
    return f"{identifier(database)}.{identifier(table)}"


def literal(value: str | UUID) -> str:
    """A string, or an id, as a literal."""
    if isinstance(value, UUID):
        return f"toUUID('{value}')"
    return f"'{''.join(_ESCAPES.get(character, character) for character in value)}'"


def parameter(value: str | int | Sequence[str]) -> str:
    """``value`` as ClickHouse's HTTP interface reads a ``param_`` argument."""
    if isinstance(value, str):
        return "".join(_ESCAPES[c] if c in _ESCAPES and c != "'" else c for c in value)
    if isinstance(value, int):
        return str(value)
    return f"[{','.join(literal(item) for item in value)}]"
