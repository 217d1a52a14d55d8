"""Group commit of access statements: those that arrive while one group is put in force share the next.

One thread commits. It waits until no request uses the engine, takes everything queued by then, applies it in order,
has the engine enforce the result (re-opening it if it must), writes the state file, and answers. A statement is
answered only when it is in force and on disk, and requests enter again only after that. A statement that fails
changes nothing and takes nobody with it; should the engine refuse the result of a group, each is tried alone.
"""

import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from kernel_local.clickhouse import access, errors
from kernel_local.clickhouse import state as states
from kernel_local.clickhouse.engine import Engine
from kernel_local.clickhouse.errors import ClickHouseError, error
from kernel_local.clickhouse.logs import log
from kernel_local.clickhouse.state import AccessState

MAX_WAIT_SECONDS = 15.0


@dataclass
class _Pending:
    statement: str
    principal: str
    database: str
    conditions: dict[str, str] = field(default_factory=dict)
    done: "Future[None]" = field(default_factory=Future)

    def apply(self, state: AccessState) -> None:
        """Applies it; conditions were formatted before, because nobody can while the engine is closed."""
        access.apply(self.statement, state, self.principal, self.database, self._condition)

    def _condition(self, sql: str) -> str:
        if sql not in self.conditions:
            raise error(errors.BAD_ARGUMENTS, "The policy's condition could not be read")
        return self.conditions[sql]


class AccessCommits:
    """Applies access statements durably. `state` is what is in force: read it, never change it."""

    def __init__(self, engine: Engine, path: Path, state: AccessState) -> None:
        self.state = state
        self._engine = engine
        self._path = path
        self._queue: deque[_Pending] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="access-commits", daemon=True)
        self._thread.start()

    def run(self, statement: str, principal: str, database: str) -> None:
        """Applies one statement (in normal form) and returns when it is in force and on disk.

        Raises:
            ClickHouseError: it is wrong, or running queries kept it from being applied for 15 s.
        """
        pending = _Pending(statement, principal, database)

        def remember(sql: str) -> str:
            pending.conditions[sql] = self._engine.normalize(sql)
            return pending.conditions[sql]

        before = self.state
        trial = before.copy()
        try:
            access.apply(statement, trial, principal, database, remember)
            changes = trial != before
        except ClickHouseError:
            changes = True  # what is wrong now may be right once the statements queued before it are applied
        with self._changed:
            if self._closed:
                raise error(errors.TIMEOUT_EXCEEDED, "The server is shutting down")
            # Nothing to do, and nothing queued that could change that: an `IF NOT EXISTS` costs no re-open.
            if not changes and not self._queue and self.state is before:
                return
            self._queue.append(pending)
            self._changed.notify()
        pending.done.result()

    def close(self) -> None:
        """Ends the thread after what is queued."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
            try:
                with self._engine.gate.alone(MAX_WAIT_SECONDS):
                    self._commit(self._take())
            except ClickHouseError as failure:
                for one in self._take():
                    one.done.set_exception(failure)
            except BaseException as failure:  # the engine can't be opened again: nothing can be answered
                log(f"fatal: {failure}")
                os._exit(70)

    def _take(self) -> list[_Pending]:
        with self._changed:
            group = list(self._queue)
            self._queue.clear()
        return group

    def _commit(self, group: Sequence[_Pending]) -> None:
        state = self.state
        good = []
        for one in group:
            trial = state.copy()
            try:
                one.apply(trial)
            except ClickHouseError as failure:
                one.done.set_exception(failure)
            else:
                state = trial
                good.append(one)
        before = self._engine.reopens
        refusal = self._put_in_force(state)
        log(f"access: {len(good)} of {len(group)} statements accepted, {self._engine.reopens - before} re-opens")
        if refusal is None:
            for one in good:
                one.done.set_result(None)
        elif len(good) == 1:
            good[0].done.set_exception(refusal)
        else:
            for one in good:
                self._commit([one])

    def _put_in_force(self, state: AccessState) -> ClickHouseError | None:
        """Makes the engine enforce the state and saves it; on a failure everything is as before."""
        if state == self.state:
            return None
        failure = None
        try:
            self._engine.put_in_force(state)
            states.save(state, self._path)
        except ClickHouseError as refused:
            failure = refused
        except OSError as unwritable:
            failure = error(errors.UNKNOWN_EXCEPTION, f"Access state could not be written: {unwritable.strerror}")
        if failure is None:
            self.state = state
            return None
        try:
            self._engine.put_in_force(self.state)
        except ClickHouseError as lost:
            raise RuntimeError(f"the engine does not open again: {lost.message}") from lost
        return failure
