"""What every payload shares. On the wire names are camelCase, and only those are taken."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

Text = Annotated[str, StringConstraints(min_length=1)]
Roles = list[str]
"""Names of roles."""


class Payload(BaseModel):
    """``data`` of an event. A publisher may send nothing beside it; a reader ignores what it does not know, so that a
    field that is added is no break."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_alias=True, hide_input_in_errors=True
    )


class ByPerson(Payload):
    by: UUID | None = Field(None, description="The user who did it; absent when a program did")
    actor_id: UUID | None = Field(None, description="Who acted in that user's name")
