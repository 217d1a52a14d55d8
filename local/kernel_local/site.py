"""One platform's data directory: its lock, its state (ports, phase), its secrets, its processes.

DATA/lock          held while a command changes anything; names the holder for the message others get
DATA/state.json    ports, phase, which cluster: what ``status`` and ``env`` read
DATA/secrets.json  every generated password and key, mode 0600; the only place they are kept together
DATA/run/          one record a process (see processes.py)
DATA/logs/         one file a part
DATA/PART/         a part's data
"""

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kernel_local import files, ports
from kernel_local.errors import PlatformError
from kernel_local.processes import Processes


class Site:
    """The data directory of one platform. Reading needs no lock; everything else happens inside ``locked``."""

    def __init__(self, data: Path, *, anew: bool = False) -> None:
        """``anew``: what is there will be thrown away, so it need not be readable."""
        self.data = data.expanduser().absolute()
        self.logs, self.run = self.data / "logs", self.data / "run"
        self.processes = Processes(self.run, None)
        self._anew = anew
        self._state: dict[str, Any] = self._load("state.json")
        self._secrets: dict[str, str] = self._load("secrets.json")

    @property
    def key(self) -> str:
        """A short name for this directory, for what must lie elsewhere."""
        return hashlib.sha256(os.fsencode(self.data.resolve())).hexdigest()[:16]

    @property
    def exists(self) -> bool:
        return (self.data / "lock").exists()

    def _load(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.data / name).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except PermissionError:
            raise PlatformError(f"{self.data} belongs to someone else: name another directory with --data") from None
        except (OSError, ValueError) as error:
            if self._anew:
                return {}
            raise PlatformError(f"{self.data / name} can't be read ({error}): start anew with --fresh") from None
        if not isinstance(content, dict):
            raise PlatformError(f"{self.data / name} is not what the platform wrote: start anew with --fresh")
        return content

    @asynccontextmanager
    async def locked(self, wait: float = 3.0) -> AsyncIterator[None]:
        """Makes the directory (mode 0700) and holds its lock. Raises PlatformError when another command has it."""
        try:
            for folder in (self.data, self.logs, self.run):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise PlatformError(f"{self.data} can't be used ({error.strerror}): name another with --data") from None
        try:
            await self._acquire(handle, wait)
            os.truncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            self.processes = Processes(self.run, handle)
            self._state, self._secrets = self._load("state.json"), self._load("secrets.json")
            yield
        finally:
            self.processes = Processes(self.run, None)
            os.close(handle)

    async def _acquire(self, handle: int, wait: float) -> None:
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    holder = os.pread(handle, 32, 0).decode() or "?"
                    raise PlatformError(
                        f"another kernel command (pid {holder}) is at work in {self.data}: wait for it, or end it"
                    ) from None
                await asyncio.sleep(0.05)
            else:
                return

    def get(self, name: str, default: str = "") -> str:
        """A value of the state."""
        return str(self._state.get(name, default))

    def put(self, name: str, value: str) -> None:
        self._state[name] = value
        self._save_state()

    def port(self, name: str) -> int:
        """The port chosen for ``name``; 0 when none has been."""
        return int(self._state.get("ports", {}).get(name, 0))

    def settle_ports(self, names: tuple[str, ...], *, anew: bool = False) -> None:
        """Gives each name a port that is free now: the one it had, if it still is, else (or with ``anew``) another."""
        known: dict[str, int] = self._state.setdefault("ports", {})
        for name in names:
            if anew or name not in known or not ports.is_free(known[name]):
                known[name] = ports.choose(set(known.values()))
        self._save_state()

    def _save_state(self) -> None:
        files.write(self.data / "state.json", json.dumps(self._state, indent=2) + "\n")

    def secret(self, name: str) -> str:
        """The password called ``name``, made when first asked for: 43 characters that need no quoting anywhere."""
        if name not in self._secrets:
            self.keep_secret(name, secrets.token_urlsafe(32).replace("-", "x").replace("_", "y"))
        return self._secrets[name]

    def master_key(self) -> str:
        """32 random bytes in base64, from which the operator derives the tenants' passwords."""
        if "master_key" not in self._secrets:
            self.keep_secret("master_key", base64.b64encode(secrets.token_bytes(32)).decode())
        return self._secrets["master_key"]

    def known_secret(self, name: str) -> str | None:
        return self._secrets.get(name)

    def keep_secret(self, name: str, value: str | None) -> None:
        """Stores a secret (or removes it, with None) before anything can use it."""
        self._secrets = {k: v for k, v in self._secrets.items() if k != name}
        if value is not None:
            self._secrets[name] = value
        files.write(self.data / "secrets.json", json.dumps(self._secrets, indent=2) + "\n")

    def reset(self) -> None:
        """Forgets everything, after the files are gone."""
        self._state, self._secrets = {}, {}
        for folder in (self.logs, self.run):
            folder.mkdir(mode=0o700, exist_ok=True)

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"
