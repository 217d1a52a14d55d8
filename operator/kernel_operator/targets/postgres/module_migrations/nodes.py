"""Default deny on parse trees: whatever a rule does not name must be absent.

PostgreSQL's parser fills a node's unused attributes with a zero value. ``only`` takes the attributes
that a rule has looked at and refuses the node when any other one is set, so syntax that nobody
thought of, in this version of PostgreSQL or the next, is refused and not let through.
"""

from collections.abc import Iterable

from pglast import ast

MAX_DEPTH = 60
"""How deep expressions may nest. Deeper trees would end Python's own recursion."""

_PLACES = ("location", "list_start", "list_end", "rexpr_list_start", "rexpr_list_end")
"""Where in the text a node stands."""


class NotAllowed(Exception):
    """``what`` is in a migration, which may not hold it; ``way_out`` tells what to do instead."""

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what} is not allowed: {way_out}")
        self.what, self.way_out = what, way_out


def only(node: ast.Node, *looked_at: str, what: str, way_out: str = "leave it out") -> None:
    """Raises NotAllowed when an attribute of ``node`` other than those ``looked_at`` is set."""
    for name in node:
        value = getattr(node, name)
        # Enumerations begin with the value that stands for "not given".
        if name not in looked_at and name not in _PLACES and value and value != "\x00":
            raise NotAllowed(f"{what} with {_words(name)}", way_out)


def names(parts: Iterable[object] | None) -> tuple[str, ...]:
    """The parts of a name. Raises NotAllowed for anything that is no plain name, such as ``*``."""
    found: list[str] = []
    for part in parts or ():
        if not isinstance(part, ast.String) or part.sval is None:
            raise NotAllowed("a name with * or an expression in it", "write the name out")
        found.append(part.sval)
    return tuple(found)


def _words(attribute: str) -> str:
    """``agg_order`` -> ``agg order``, ``tablespacename`` as it is."""
    return attribute.rstrip("_").replace("_", " ")
