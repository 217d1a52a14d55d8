"""The SQL of this target, a file a statement."""

from importlib.resources import files
from string import Template


def text(name: str) -> str:
    """The statement ``name``, without its end of line."""
    return (files(__name__) / f"{name}.sql").read_text("utf-8").strip()


def fill(name: str, **values: str) -> str:
    """The statement ``name`` with ``values``, which must be quoted already, at its ``$`` marks."""
    return Template(text(name)).substitute(values).strip()
