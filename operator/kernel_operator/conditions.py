"""Conditions in the form that kubectl wait, Argo CD and Flux read (metav1.Condition, kstatus)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kernel_operator.desired import Refusal, Unavailable
from kernel_operator.kube import KubeError

_MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Condition:
    """``status`` None means Unknown: not judged yet, because something before it has to come first."""

    type: str
    status: bool | None
    reason: str
    message: str = ""

    @classmethod
    def met(cls, type_: str, reason: str = "AsDesired", message: str = "") -> "Condition":
        return cls(type_, True, reason, message)

    @classmethod
    def refused(cls, type_: str, refusal: Refusal) -> "Condition":
        return cls(type_, False, refusal.reason, refusal.message)

    @classmethod
    def waiting(cls, type_: str, message: str) -> "Condition":
        return cls(type_, None, "Waiting", message)

    @classmethod
    def failed(cls, type_: str, error: BaseException) -> "Condition":
        """The condition for work that raised. The text of an unexpected error is not shown: it may hold anything."""
        if isinstance(error, Unavailable):
            return cls(type_, False, f"{error.system}Unavailable", f"waiting for {error.system}: {error.message}")
        if isinstance(error, KubeError):
            return cls(type_, False, "KubernetesRefused", f"the API server refused a call of the operator: {error}")
        return cls(type_, False, "InternalError", f"{type(error).__name__}; the operator's log says more")


READY = "Ready"


def ready(conditions: Sequence[Condition], *, ready_message: str = "") -> Condition:
    """The summary of ``conditions``: true when all are, else the first that is false, else the first unknown."""
    for wanted in (False, None):
        for condition in conditions:
            if condition.status is wanted:
                return Condition(READY, wanted, condition.reason, condition.message)
    return Condition(READY, True, "Reconciled", ready_message)


def merged(
    conditions: Sequence[Condition], current: Sequence[Mapping[str, Any]], generation: int
) -> list[dict[str, Any]]:
    """``conditions`` as they go into the status; the time of a condition moves only when its status does."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    before = {c.get("type"): c for c in current}
    words = {True: "True", False: "False", None: "Unknown"}
    result = []
    for condition in conditions:
        old = before.get(condition.type, {})
        status = words[condition.status]
        result.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason,
                "message": condition.message[:_MESSAGE_LIMIT],
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == status else now,
            }
        )
    return result
