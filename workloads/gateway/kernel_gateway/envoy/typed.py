"""Envoy's extensions are messages that name their own type."""

from typing import Any

Document = dict[str, Any]


def typed(message: str, **fields: Any) -> Document:
    """The message ``envoy....`` with its fields."""
    return {"@type": f"type.googleapis.com/{message}", **fields}


def extension(name: str, message: str, **fields: Any) -> Document:
    """The extension ``name``, configured with a message."""
    return {"name": name, "typed_config": typed(message, **fields)}
