"""Publishing for a module: its event becomes a row of the outbox, in one transaction with all that came with it.

What the caller says is the type and the payload; tenant, source, time and trace are ours to say. The right to publish
is looked up in the transaction that publishes, so that a module that was just taken away publishes nothing more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import asyncpg
from pydantic import AfterValidator, Field, JsonValue, TypeAdapter, ValidationError

from kernel_common.events import MAX_BYTES, Envelope, EventNotDeclared, emit
from kernel_common.events.catalogue import DOMAINS
from kernel_common.ids import uuid7
from kernel_common.problems import FieldError
from kernel_common.tenancy import tenant_transaction
from kernel_gateway.access import Identity
from kernel_gateway.api import trace
from kernel_gateway.api.models import Body, Id
from kernel_gateway.api.problems import ProblemError, invalid
from kernel_gateway.api.services import Services
from kernel_gateway.events.declared import Publishes, published_by
from kernel_gateway.people.permissions import covers

MOST = 500
"""Events of one call."""
ACTION = "events.publish"
"""``{slug}.events.publish`` is the permission to publish for that module."""

KERNEL = "@kernel/"
"""Begins the names of the kernel's modules, which speak for themselves."""

_RIGHTS = "SELECT permissions FROM auth.effective_rights($1)"
DATA: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
_REST_OF_ENVELOPE = 1000
"""Bytes of an envelope beside its data, at most."""


def _version_7(value: UUID) -> UUID:
    if value.version != 7:
        raise ValueError("it must be a UUIDv7; leave it out and one is made")
    return value


class NewEvent(Body):
    """``id``: the same id is the same event, to consumers too; so a call whose answer was lost can be repeated with
    it."""

    id: Annotated[Id, AfterValidator(_version_7)] | None = None
    type: Annotated[
        str,
        Field(max_length=200, pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){2}$", examples=["crm.contact.created"]),
    ]
    schema_version: Annotated[str, Field(pattern=r"^(0|[1-9]\d{0,5})(\.(0|[1-9]\d{0,5})){2}$")] = "1.0.0"
    data: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one event. ``topic`` is None where ``problem`` refused it."""

    id: UUID
    topic: str | None = None
    problem: ProblemError | None = None


@dataclass(frozen=True, slots=True)
class Publisher:
    """What the caller may publish: ``declared`` by slug, for the tenant's active modules alone."""

    caller: Identity
    held: Collection[str]
    declared: Mapping[str, Publishes]

    def envelope(self, new: NewEvent, id: UUID) -> Envelope:
        """Raises ProblemError."""
        domain = new.type.partition(".")[0]
        if domain in DOMAINS:
            raise _not_declared(new.type, f"{domain} is a domain of the kernel's own, whose events only it publishes")
        module = self.declared.get(domain)
        if module is None or new.type not in module.types or module.source.startswith(KERNEL):
            raise _not_declared(new.type, "no module that is active for the tenant declares it in events.publishes")
        if not covers(self.held, permission := f"{domain}.{ACTION}"):
            raise ProblemError(403, "forbidden", f"the permission {permission} is needed")
        try:
            return Envelope(
                id=id,
                type=new.type,
                source=module.source,
                tenant_id=self.caller.tenant,
                schema_version=new.schema_version,
                trace_id=trace.current.get() or None,
                data=new.data,
            )
        except ValidationError as error:
            raise _unfit(new, error) from None


async def publish(services: Services, caller: Identity, new: Sequence[NewEvent]) -> list[Outcome]:
    """The outcome of each, in order; those without a problem are published when this returns. Raises ProblemError when
    none could be."""
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        held = await transaction.fetchval(_RIGHTS, caller.user)
        publisher = Publisher(caller, held or (), await published_by(transaction))
        envelopes: list[Envelope] = []
        outcomes: list[Outcome] = []
        seen: set[UUID] = set()
        for event in new:
            id = event.id or uuid7()
            try:
                if id in seen:
                    raise invalid("id", "another event of the same call has it", "REPEATED")
                envelope = publisher.envelope(event, id)
            except ProblemError as problem:
                outcomes.append(Outcome(id, problem=problem))
                continue
            seen.add(id)
            envelopes.append(envelope)
            outcomes.append(Outcome(id, envelope.topic))
        await _emit(transaction, envelopes)
    return outcomes


async def _emit(transaction: asyncpg.Connection, envelopes: Sequence[Envelope]) -> None:
    try:
        await emit(transaction, *envelopes)
    except EventNotDeclared as error:
        # The database has the last word: the module's declaration has just changed.
        raise _not_declared(error.type, "the module no longer declares it") from None


def _not_declared(kind: str, why: str) -> ProblemError:
    return ProblemError(403, "event-not-declared", f"{kind} can't be published: {why}")


def _unfit(new: NewEvent, error: ValidationError) -> ProblemError:
    try:
        size = len(DATA.dump_json(new.data))
    except ValueError:  # text that is no Unicode
        size = 0
    if size > MAX_BYTES - _REST_OF_ENVELOPE:
        message = f"an event has at most {MAX_BYTES} bytes, its envelope included: put large content elsewhere"
        return ProblemError(413, "payload-too-large", f"data: {message}", [FieldError("data", message, "TOO_LARGE")])
    first = error.errors(include_input=False)[0]
    field = ".".join(map(str, first["loc"])) or "data"
    return invalid(field, str(first["msg"]).removeprefix("Value error, "))
