"""The tables that a module declares."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kernel_operator.desired import ColumnType
from kernel_operator.resources.invalid import broken
from kernel_operator.resources.reserved import RESERVED_COLUMNS
from kernel_operator.resources.spec import SpecPart, first_repeated
from kernel_operator.resources.text import WHOLE, Boolean, snake_case


def _free(name: str) -> str:
    if name in RESERVED_COLUMNS:
        raise broken("this column is made by the platform or PostgreSQL itself, choose another name")
    return name


class ModelField(SpecPart):
    name: Annotated[
        str, Field(min_length=1, max_length=40), snake_case("field", "email or closed_at"), AfterValidator(_free)
    ]
    type: ColumnType
    required: Boolean = False


class Analytics(SpecPart):
    enabled: Boolean = False
    retention_days: Annotated[int, Field(ge=1, le=3650), WHOLE] | None = None

    @model_validator(mode="after")
    def _retention_needs_analytics(self) -> Self:
        if self.retention_days is not None and not self.enabled:
            raise broken(
                "retentionDays needs analytics, set analytics.enabled: true or remove retentionDays", ".retentionDays"
            )
        return self


class DataModel(SpecPart):
    name: Annotated[str, Field(min_length=1, max_length=40), snake_case("model", "contacts or deal_items")]
    fields: Annotated[tuple[ModelField, ...], Field(min_length=1, max_length=64)]
    analytics: Analytics = Analytics()

    @model_validator(mode="after")
    def _fields_differ(self) -> Self:
        twice = first_repeated(field.name for field in self.fields)
        if twice is not None:
            raise broken(f"field {twice} of model {self.name} is named twice, remove one", ".fields")
        return self


class DataApi(SpecPart):
    models: Annotated[tuple[DataModel, ...], Field(max_length=20)] = ()

    @model_validator(mode="after")
    def _models_differ(self) -> Self:
        twice = first_repeated(model.name for model in self.models)
        if twice is not None:
            raise broken(f"model {twice} is named twice, remove one", ".models")
        return self
