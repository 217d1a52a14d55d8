"""What Envoy's breakers say about themselves.

Each worker thread of Envoy has breakers of its own and reports each change, with a number that grows, so that a report
that was overtaken is dropped. ``born`` is when the worker's script was loaded: reports of a newer Envoy end what was
known of an older one. The gauge shows the worst of the workers; what is closed everywhere takes no memory here.
"""

import contextlib
import json
import logging
import re
from dataclasses import dataclass
from typing import Literal, get_args

from kernel_common.logs import about
from kernel_gateway.envoy import metrics

State = Literal["closed", "half-open", "open"]
_RANK: dict[str, int] = {state: rank for rank, state in enumerate(get_args(State))}
_UPSTREAM = re.compile(r"module_[a-z][a-z0-9_]{0,62}")
_MOST = 4096
"""States that are kept: far more than there are modules and workers, few enough to be no burden."""
_TOGETHER = 5
"""Seconds within which the workers of one Envoy load their scripts."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    rank: int
    born: int
    turn: int


_known: dict[tuple[str, str], _Known] = {}
"""By upstream and worker. A closed breaker stays while it may still be overtaken by its own older report."""


def note(upstream: str, worker: str, state: State, *, born: int = 0, turn: int = 0) -> None:
    """One breaker of one worker has changed."""
    forget_older(born)
    before = _known.get((upstream, worker))
    newest = max((known.born for known in _known.values()), default=0)
    if (before is not None and before.turn >= turn > 0) or 0 < born < newest - _TOGETHER:
        return
    if before is None and len(_known) >= _MOST:
        return
    _known[upstream, worker] = _Known(_RANK[state], born, turn)
    _show(upstream)
    level = logging.WARNING if state == "open" else logging.INFO
    log.log(
        level, "the breaker of %s is %s", upstream, state, extra=about(upstream=upstream, worker=worker, state=state)
    )


def forget_older(started: float) -> None:
    """Envoy was started at that time (Unix seconds): what workers of an earlier one reported has ended."""
    for key in [key for key, known in _known.items() if known.born < started - _TOGETHER]:
        del _known[key]
        _show(key[0])


def forget(upstream: str | None = None) -> None:
    """The upstream is gone; without a name: all are."""
    for key in [key for key in _known if upstream in (None, key[0])]:
        del _known[key]
        _show(key[0])


def _show(upstream: str) -> None:
    ranks = [known.rank for (name, _), known in _known.items() if name == upstream]
    if ranks:
        metrics.breaker_state.labels(upstream).set(max(ranks))
    else:
        with contextlib.suppress(KeyError):
            metrics.breaker_state.remove(upstream)


def handle(body: bytes) -> None:
    """What the decision server is sent at /internal/breaker. Raises ValueError when it is no report."""
    if len(body) > 1024:
        raise ValueError("a report is shorter")
    report = json.loads(body)
    match report:
        case {
            "upstream": str(upstream),
            "worker": str(worker),
            "state": "closed" | "half-open" | "open" as state,
            "born": int(born),
            "turn": int(turn),
        } if _UPSTREAM.fullmatch(upstream) and len(worker) <= 64:
            note(upstream, worker, state, born=born, turn=turn)
        case _:
            raise ValueError("a report names upstream, worker, born, turn and state")
