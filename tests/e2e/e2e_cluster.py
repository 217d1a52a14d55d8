"""kubectl as the tests use it: apply, wait, look, delete, each with a bound."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Manifest = Mapping[str, Any]
T = TypeVar("T")


class Cluster:
    """The cluster under test, as its administrator. ``run`` is kubectl with the right kubeconfig."""

    def __init__(self, kubectl: str | Path, kubeconfig: str | Path) -> None:
        self._command = [str(kubectl), f"--kubeconfig={kubeconfig}"]

    def run(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [*self._command, *args], input=stdin, capture_output=True, text=True, timeout=150, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else done.stderr

    def apply(self, *manifests: Manifest) -> None:
        self.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)}))

    def get(self, *what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("get", *what, "-o", "json"))
        return found

    def exists(self, *what: str) -> bool:
        return bool(self.run("get", *what, "--ignore-not-found", "-o", "name").strip())

    def wait_ready(self, *what: str, seconds: int = 60) -> None:
        self.run("wait", "--for=condition=Ready", *what, f"--timeout={seconds}s")

    def condition(self, type_: str, *what: str) -> dict[str, Any]:
        """The condition, or an empty one when it is not there yet."""
        conditions = self.get(*what).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    def wait_reason(self, reason: str, *what: str, type_: str = "Ready", seconds: float = 60) -> dict[str, Any]:
        """The condition once its reason is ``reason``."""
        return eventually(
            lambda: self.condition(type_, *what), lambda c: c.get("reason") == reason, seconds, f"reason {reason}"
        )

    def delete(self, *what: str, seconds: int = 60, wait: bool = True) -> None:
        self.run("delete", *what, "--ignore-not-found", f"--wait={str(wait).lower()}", f"--timeout={seconds}s")


def eventually(ask: Callable[[], T], good: Callable[[T], bool], seconds: float = 30, what: str = "") -> T:
    """The first answer that is good; asked again and again for at most ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if good(answer):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or good}; last answer: {answer}")
        time.sleep(0.05)
