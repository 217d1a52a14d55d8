"""The parts of a Kubernetes object that every kind has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from kernel_operator.resources.invalid import InvalidResource

Spec = TypeVar("Spec", bound=BaseModel)


@dataclass(frozen=True)
class Metadata:
    """``metadata`` of an object that the API server stored. Times are RFC 3339 text."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Reads the metadata of a whole object. Raises InvalidResource when it has no name."""
        metadata = body.get("metadata") or {}
        if not isinstance(metadata.get("name"), str) or not metadata["name"]:
            raise InvalidResource("metadata.name", "is missing, this is not an object that the API server stored")
        return cls(
            name=metadata["name"],
            namespace=metadata.get("namespace") or "",
            uid=metadata.get("uid") or "",
            generation=metadata.get("generation") or 0,
            resource_version=metadata.get("resourceVersion") or "",
            labels=dict(metadata.get("labels") or {}),
            annotations=dict(metadata.get("annotations") or {}),
            finalizers=tuple(metadata.get("finalizers") or ()),
            creation_timestamp=metadata.get("creationTimestamp") or "",
            deletion_timestamp=metadata.get("deletionTimestamp"),
        )


@dataclass(frozen=True)
class Resource:
    """A stored object. ``status`` is as the server has it; writers of status own its meaning."""

    metadata: Metadata
    status: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def generation(self) -> int:
        return self.metadata.generation

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.labels

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.annotations

    @property
    def finalizers(self) -> tuple[str, ...]:
        return self.metadata.finalizers

    @property
    def creation_timestamp(self) -> str:
        return self.metadata.creation_timestamp

    @property
    def deletion_timestamp(self) -> str | None:
        return self.metadata.deletion_timestamp

    @property
    def deleting(self) -> bool:
        """The object was deleted and waits for its finalizers."""
        return self.metadata.deletion_timestamp is not None


def read_spec(model: type[Spec], body: Mapping[str, Any]) -> Spec:
    """The checked spec of a whole object. Raises InvalidResource with the path of the first wrong field."""
    spec = body.get("spec")
    if not isinstance(spec, Mapping):
        raise InvalidResource("spec", "is missing")
    try:
        return model.model_validate(dict(spec))
    except ValidationError as error:
        raise InvalidResource.from_validation(error, "spec") from None
