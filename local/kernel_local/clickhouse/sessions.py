"""Sessions by `session_id`: what SET and USE left, replayed on each request's own connection.

So a session survives a re-open of the engine and holds no connection; temporary tables do not exist here.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.errors import error

MAX_SESSIONS = 1000
DEFAULT_SECONDS = 60.0
MAX_SECONDS = 3600.0


@dataclass
class Session:
    """What a session remembers between requests."""

    settings: dict[str, str] = field(default_factory=dict)
    database: str = ""
    busy: bool = False
    expires: float = 0.0


class Sessions:
    """The open sessions of all users, by (user, session_id)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], Session] = {}

    @contextlib.contextmanager
    def use(self, user: str, name: str, seconds: str, must_exist: bool) -> Iterator[Session]:
        """Holds a session for one request; with an empty name a fresh one that nobody keeps.

        Raises:
            ClickHouseError: SESSION_NOT_FOUND, SESSION_IS_LOCKED, or too many sessions.
        """
        if not name:
            yield Session()
            return
        try:
            timeout = min(float(seconds or DEFAULT_SECONDS), MAX_SECONDS)
        except ValueError:
            raise error(errors.BAD_ARGUMENTS, f"Invalid session timeout: {seconds[:20]!r}") from None
        now = time.monotonic()
        with self._lock:
            self._open = {key: one for key, one in self._open.items() if one.busy or one.expires > now}
            session = self._open.get((user, name))
            if session is None:
                if must_exist:
                    raise error(errors.SESSION_NOT_FOUND, f"Session {name!r} not found")
                if len(self._open) >= MAX_SESSIONS:
                    raise error(errors.TOO_MANY_SIMULTANEOUS_QUERIES, "Too many sessions")
                session = self._open[user, name] = Session()
            if session.busy:
                raise error(errors.SESSION_IS_LOCKED, f"Session {name!r} is locked by a concurrent client")
            session.busy = True
        try:
            yield session
        finally:
            session.expires = time.monotonic() + timeout
            session.busy = False
