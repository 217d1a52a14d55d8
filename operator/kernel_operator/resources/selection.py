"""Which tenants a module is for."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kernel_operator.resources.invalid import broken
from kernel_operator.resources.spec import UNIQUE, SpecPart
from kernel_operator.resources.text import Boolean, LabelKey, LabelValue, TenantName


class LabelRequirement(SpecPart):
    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[tuple[LabelValue, ...], Field(max_length=50)] = ()

    @model_validator(mode="after")
    def _values_fit_operator(self) -> Self:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            raise broken("In and NotIn need at least one value, Exists and DoesNotExist take none", ".values")
        return self

    def matches(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class LabelSelector(SpecPart):
    """Both lists must hold, as everywhere in Kubernetes."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=20)] = Field(default_factory=dict)
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=20)] = ()

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.match_labels and not self.match_expressions:
            raise broken("an empty selector would mean every Tenant, write all: true instead")
        return self

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )


def _only_true(value: bool) -> bool:
    if not value:
        raise broken("all can only be true, for no Tenant write names: []")
    return value


class TenantSelection(SpecPart):
    """Exactly one of the three is set."""

    names: Annotated[tuple[TenantName, ...], Field(max_length=1000), UNIQUE] | None = None
    selector: LabelSelector | None = None
    all: Annotated[Boolean, AfterValidator(_only_true)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if [self.names, self.selector, self.all].count(None) != 2:
            raise broken("tenants needs exactly one of names, selector and all, such as names: [acme]")
        return self

    @property
    def names_nobody(self) -> bool:
        """Tenants are found by what they are, not named; only some namespaces may do that."""
        return self.names is None

    def selects(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the tenant of this name with these labels gets the module."""
        if self.names is not None:
            return name in self.names
        return self.selector.matches(labels) if self.selector is not None else True
