"""Decides on one request: token, budget, block, module, permission, in that order.

A verdict depends on nothing but the token, the rule and the tenant's state in Valkey, and takes one round trip at most.
The common case runs without a task and without a future: the answer of Valkey is turned into a verdict in the callback
that receives it. Only what has to be read from PostgreSQL becomes a task.

When Valkey is away, budgets are not enforced (a limiter that is down must not be an outage), but whatever it says of
rights, blocks and modules is read from PostgreSQL instead; when that is away too, the answer is 503. Nothing is ever
allowed because something could not be asked.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis

from kernel_gateway import metrics
from kernel_gateway.access import Allowed, Identity, Refused, Rule, Verdict
from kernel_gateway.decision import limits
from kernel_gateway.decision.rights import Held, Rights, RightsUnavailable, Seen
from kernel_gateway.decision.script import (
    ALLOWED,
    BLOCKED,
    COLD,
    FORBIDDEN,
    INACTIVE,
    LIMITED,
    MISS,
    anonymous,
    demand,
    person,
)
from kernel_gateway.decision.valkey import Valkey
from kernel_gateway.tokens.bearer import bearer
from kernel_gateway.tokens.holder import KeyHolder
from kernel_gateway.tokens.memory import TokenMemory
from kernel_gateway.tokens.tokens import Claims, TokenRefused

Answer = Callable[[Verdict], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Person:
    """What a decision needs of a token."""

    identity: Identity
    question: bytes


def _person(claims: Claims) -> _Person:
    identity = Identity(claims.user, claims.tenant, claims.roles, claims.actor)
    return _Person(identity, person(identity))


class Decider:
    """``issuer`` is whose tokens are taken; ``anonymous_limit`` is the budget of a client address, a minute."""

    def __init__(self, keys: KeyHolder, issuer: str, valkey: Valkey, rights: Rights, *, anonymous_limit: int) -> None:
        self._tokens = TokenMemory(keys, issuer, _person)
        self._valkey, self._rights, self._anonymous_limit = valkey, rights, anonymous_limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._complained = -1.0

    async def decide(self, rule: Rule, authorization: Sequence[str], client: str) -> Verdict:
        """``authorization``: every Authorization header of the request. ``client``: the address it came from."""
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

        def answer(verdict: Verdict) -> None:
            if not future.done():  # whoever asked may have gone
                future.set_result(verdict)

        self.ask(rule, authorization, client, answer)
        return await future

    def ask(self, rule: Rule, authorization: Sequence[str], client: str, answer: Answer) -> None:
        """The same for callers without a task: ``answer`` is called once, perhaps before this returns."""
        began = time.perf_counter()
        if rule.public:
            question = _Question(self, rule, None, answer, began)
            self._valkey.ask(anonymous(client, self._anonymous_limit), question)
            return
        try:
            person = self._tokens.get(bearer(authorization))
        except TokenRefused as refusal:
            challenge = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
            _tell(answer, Refused(refusal.status, refusal.slug, refusal.detail, challenge), began)
            return
        question = _Question(self, rule, person.identity, answer, began)
        self._valkey.ask(person.question + demand(rule), question)

    async def close(self, timeout: float = 1.0) -> None:
        """Waits at most ``timeout`` seconds for what is still being decided; then nobody is there to be answered."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()

    def _complain(self, error: hiredis.ReplyError) -> None:
        """At most once a second: what is wrong with one decision is mostly wrong with all."""
        if time.monotonic() - self._complained >= 1:
            self._complained = time.monotonic()
            log.error("Valkey refused a decision: %s", str(error).partition(" ")[0])

    def _later(self, question: "_Question", seen: Seen | None, told: dict[str, str], *, trusted: bool) -> None:
        task = asyncio.create_task(self._from_database(question, seen, told, trusted=trusted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _from_database(
        self, question: "_Question", seen: Seen | None, told: dict[str, str], *, trusted: bool
    ) -> None:
        """``trusted``: what Valkey said of the module holds. ``seen``: what must not have changed for it to be kept."""
        identity = question.identity
        assert identity is not None
        try:
            held = await self._rights.read(identity.tenant, identity.user)
            if held is not None and seen is not None:
                self._rights.keep(identity.tenant, identity.user, held, seen)
            verdict = _judged(question.rule, identity, held, told, trusted=trusted)
        except RightsUnavailable as error:
            verdict = Refused(503, "service-unavailable", str(error), {"retry-after": "1"})
        except Exception:
            log.exception("a decision failed")
            verdict = _FAULT
        question.tell(verdict)


class _Question:
    """One request that waits for Valkey. Called with its answer."""

    __slots__ = ("_answer", "_began", "_decider", "identity", "rule")

    def __init__(self, decider: Decider, rule: Rule, identity: Identity | None, answer: Answer, began: float) -> None:
        self._decider, self.rule, self.identity = decider, rule, identity
        self._answer, self._began = answer, began

    def __call__(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._without_valkey(reply)
            return
        try:
            self._decided(reply)
        except Exception:
            log.exception("an answer of Valkey could not be read")
            self.tell(_FAULT)

    def _decided(self, reply: Any) -> None:
        verdict, limit, _, left, full_in, wait, now = reply[:7]
        told = limits.headers(limit, left, full_in, wait, now)
        if verdict == ALLOWED:
            self.tell(Allowed(self.identity, told))
        elif verdict == MISS:
            self._decider._later(self, Seen(*reply[7:10]), told, trusted=True)
        elif verdict == COLD:
            self._decider._later(self, None, told, trusted=False)
        else:
            self.tell(_refused(verdict, self.rule, told))

    def tell(self, verdict: Verdict) -> None:
        _tell(self._answer, verdict, self._began)

    def _without_valkey(self, error: Exception) -> None:
        metrics.rate_limit_degraded.inc()
        if isinstance(error, hiredis.ReplyError):
            self._decider._complain(error)
            self._decider._valkey.doubt(error)
        if self.identity is None:
            self.tell(Allowed())
        else:
            self._decider._later(self, None, {}, trusted=False)


def _judged(rule: Rule, identity: Identity, held: Held | None, told: dict[str, str], *, trusted: bool) -> Verdict:
    if held is None:
        return _refused(FORBIDDEN, rule, told)
    if held.blocked:
        return _refused(BLOCKED, rule, told)
    if not trusted and rule.module is not None and rule.module not in held.modules:
        return _refused(INACTIVE, rule, told)
    if not held.satisfy(rule):
        return _refused(FORBIDDEN, rule, told)
    return Allowed(identity, told)


def _refused(verdict: int, rule: Rule, told: dict[str, str]) -> Refused:
    if verdict == LIMITED:
        wait = told.get("retry-after", "1")
        return Refused(429, "rate-limit-exceeded", f"too many requests: try again in {wait} s", told)
    if verdict == BLOCKED:
        return Refused(403, "tenant-blocked", "the tenant is blocked: ask its owner or the platform's", told)
    if verdict == INACTIVE:
        return Refused(404, "module-not-active", f"the module {rule.module} is not active for the tenant", told)
    if verdict == FORBIDDEN:
        needs = f"the permission {rule.permission} is needed" if rule.permission else "the user is no active member"
        return Refused(403, "forbidden", needs, told)
    return _FAULT


_FAULT = Refused(500, "internal-error", "the request could not be decided on")


def _tell(answer: Answer, verdict: Verdict, began: float) -> None:
    slug = verdict.slug if isinstance(verdict, Refused) else "allowed"
    metrics.decisions[slug].inc()
    metrics.decision_seconds.observe(time.perf_counter() - began)
    answer(verdict)
