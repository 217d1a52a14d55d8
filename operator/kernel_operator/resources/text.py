"""The kinds of text and number that the resources are made of. Each has the rule and the message of the CRD."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

from kernel_operator.resources.invalid import broken

LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?"
LABEL_KEY = (
    r"([a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_COMPARATOR = rf"(>=|<=|>|<|=){_NUMBER}([.]{_NUMBER}){{0,2}}"
VERSION = rf"{_NUMBER}[.]{_NUMBER}[.]{_NUMBER}"
VERSION_RANGE = rf"{_COMPARATOR}( {_COMPARATOR})*"
DOTTED = r"[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*){2}"


def matching(pattern: str, message: str) -> AfterValidator:
    """The whole text must match ``pattern``, else ``message``."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise broken(message)
        return value

    return AfterValidator(check)


def _whole_number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise broken("must be a whole number")
    return value


WHOLE = BeforeValidator(_whole_number)
"""Beside int: neither text nor a boolean passes for a number, as on the server. Goes after the bounds."""
Boolean = StrictBool

TenantName = Annotated[
    str,
    Field(min_length=1, max_length=40),
    matching(
        r"[a-z0-9]([a-z0-9-]*[a-z0-9])?",
        "must be the name of a Tenant, lower-case letters, digits and '-', such as acme",
    ),
]
LabelKey = Annotated[
    str,
    Field(min_length=1, max_length=317),
    matching(LABEL_KEY, "must be a label name such as plan or example.com/plan"),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    matching(
        LABEL_VALUE,
        "must be a label value, letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
    ),
]
Permission = Annotated[
    str,
    Field(max_length=128),
    matching(DOTTED, "must be {slug}.{resource}.{action} in lower case, such as crm.contacts.read"),
]
EventType = Annotated[
    str,
    Field(max_length=128),
    matching(DOTTED, "must be {domain}.{entity}.{verb} in lower case, such as crm.contact.created"),
]


def snake_case(what: str, example: str) -> AfterValidator:
    """A name of a table or column: snake_case with single underscores, so that ``__`` can join names."""
    return matching(
        r"[a-z][a-z0-9]*(_[a-z0-9]+)*",
        f"name of a {what} must be snake_case, beginning with a letter, such as {example}",
    )
