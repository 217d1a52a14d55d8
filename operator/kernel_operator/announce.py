"""Kubernetes Events: what a person should know, once a change of state."""

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kernel_common.ids import uuid7
from kernel_operator.desired import Unavailable
from kernel_operator.kube import Kube, KubeError

_CONTROLLER = "platform-kernel.io/operator"
_NOTE_LIMIT = 1024  # of events.k8s.io/v1

log = logging.getLogger(__name__)


async def announce(kube: Kube, body: Mapping[str, Any], reason: str, note: str, *, warning: bool = False) -> None:
    """Write an Event about the object. One that can't be written is logged: it is never worth a failed reconcile."""
    meta = body["metadata"]
    namespace = meta.get("namespace") or "default"
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name'][:200]}.{uuid7().hex}", "namespace": namespace},
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "action": "Reconcile",
        "note": note[:_NOTE_LIMIT],
        "reportingController": _CONTROLLER,
        "reportingInstance": os.environ.get("HOSTNAME", "operator")[:120],
        "regarding": {
            "apiVersion": body["apiVersion"],
            "kind": body["kind"],
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
    }
    try:
        await kube.create_event(event)
    except (KubeError, Unavailable) as error:
        log.warning("event %s not written: %s", reason, error)
