"""What small workloads of ours have in common: settings from the environment, one port, and a restart after a change.

They count as started once they answer, not once they are ready: each waits by itself for the systems it needs, and
says in ``/ready`` what it waits for. So a database that is away, or one table that stands still, does not keep
``kernel up`` from its end.
"""

import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from kernel_local import paths, probe
from kernel_local.part import Command, Part

_COMMON = paths.REPOSITORY / "workloads/common/kernel_common"
_CODE = (".py", ".sql", ".json")


class Workload(Part, ABC):
    """One process of ``python -m``. A subclass names it and gives its ``connections``."""

    program: ClassVar[tuple[str, ...]]
    """The module, and its arguments."""
    folder: ClassVar[str]
    """Where its code is, below the repository."""
    prefix: ClassVar[str]
    """Of its settings: ``CDC`` for CDC_HOST and CDC_PORT."""
    tunable: ClassVar[tuple[str, ...]] = ("LOG_LEVEL",)
    """Settings that are taken over from the environment of ``kernel up``."""
    development: ClassVar[Mapping[str, str]] = {}
    grace = 15.0

    @abstractmethod
    def connections(self) -> Mapping[str, str]:
        """The variables of the systems that it needs."""

    @property
    def where(self) -> str:
        return f"http://127.0.0.1:{self.site.port(self.port_names[0])}"

    async def start(self) -> bool:
        if self.process() is not None and self.site.get(self.name) != self._fingerprint():
            self.note("it has changed: restarting")
            await self.stop()
        return await super().start()

    async def prepare(self) -> None:
        self.site.put(self.name, self._fingerprint())

    def _settings(self) -> dict[str, str]:
        tuned = {name: value for name in self.tunable if (value := os.environ.get(name))}
        return {**self.connections(), **self.development, **tuned}

    def _fingerprint(self) -> str:
        """Changes with its settings and its code. Holds no secret."""
        digest = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode())
        for folder in (paths.REPOSITORY / self.folder, _COMMON):
            for path in _code(folder):
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def command(self) -> Command:
        listening = {
            f"{self.prefix}_HOST": "127.0.0.1",
            f"{self.prefix}_PORT": str(self.site.port(self.port_names[0])),
            "PYTHONUNBUFFERED": "1",
        }
        return Command([sys.executable, "-m", *self.program], self._settings() | listening)

    async def ready(self) -> bool:
        return await probe.answers(self.site.port(self.port_names[0]), "/live")


def _code(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in _CODE)
