"""What all parts of a spec share: camelCase names outside, frozen values, the server's pruning of unknown fields."""

from collections.abc import Hashable, Iterable
from typing import TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from kernel_operator.resources.invalid import broken

Item = TypeVar("Item", bound=Hashable)


class SpecPart(BaseModel):
    """An object of a spec. Unknown fields are left out, as the API server leaves them out."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


def _unique(values: tuple[Item, ...]) -> tuple[Item, ...]:
    twice = first_repeated(values)
    if twice is not None:
        raise broken(f"{twice} is named twice, remove one")
    return values


def first_repeated(values: Iterable[Item]) -> Item | None:
    """The first value that came before, or None."""
    seen: set[Item] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


UNIQUE = AfterValidator(_unique)
