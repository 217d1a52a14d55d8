"""The peer of the operator's benchmark: a Kopf handler that does nothing but tell, in the status, that it was called.

A process of its own, because the operator is one; written as Kopf's documentation shows it, with Kopf's defaults.
"""

import asyncio
from typing import Any

import kopf

from kernel_operator.kube import GROUP, TENANTS, VERSION


@kopf.on.startup()
async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.scanning.disabled = True
    settings.posting.enabled = False  # of Kopf's own defaults this is the one that would only slow the peer down


@kopf.on.create(GROUP, VERSION, TENANTS)
async def created(patch: kopf.Patch, **_: Any) -> None:
    patch.status["conditions"] = [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Seen",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]


def main() -> None:
    asyncio.run(kopf.operator(clusterwide=True, standalone=True))


if __name__ == "__main__":
    main()
