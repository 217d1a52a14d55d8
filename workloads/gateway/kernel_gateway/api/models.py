"""The form of bodies: camelCase, nothing unknown, nothing guessed."""

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict
from pydantic.alias_generators import to_camel


class Body(BaseModel):
    """A request's body. Unknown fields are refused, and no value is turned into another type."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, frozen=True, hide_input_in_errors=True
    )


class Answer(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, frozen=True)


def _one_line(text: str) -> str:
    if any(_control(ord(character)) for character in text):
        raise ValueError("control characters, line breaks and text-direction overrides are not allowed")
    if text != text.strip(" "):
        raise ValueError("it must not begin or end with a space")
    return text


def _control(code: int) -> bool:
    return code <= 0x1F or 0x7F <= code <= 0x9F or 0x2028 <= code <= 0x202E or 0x2066 <= code <= 0x2069


Id = Annotated[UUID, Strict(strict=False)]
"""A UUID, as text in JSON."""

Line = Annotated[str, AfterValidator(_one_line)]
"""One line of text for people; give it a length where it is used."""

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
Email = Annotated[
    str,
    Field(
        min_length=3,
        max_length=254,
        pattern=rf"^[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@({_LABEL}\.)+{_LABEL}$",
        examples=["ada@acme.example"],
    ),
]
"""The addresses that a Tenant resource takes for its owner, and no others."""
