"""The SQL of the event API, by the name of its file in ``sql/``."""

from functools import cache
from importlib.resources import files


@cache
def query(name: str) -> str:
    return (files("kernel_gateway.events") / "sql" / f"{name}.sql").read_text()
