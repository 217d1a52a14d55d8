"""The gRPC EventService: the same core as REST, on a port of its own.

Who calls is decided as for every other request, from the same token. A ProblemError becomes a status code with the
problem's slug in its details (``google.rpc.ErrorInfo``); a call has the caller's deadline, and ``SECONDS`` at most.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import UUID

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from pydantic import ValidationError

from kernel_common.logs import about
from kernel_common.problems import FieldError
from kernel_gateway.access import Identity, Refused, Rule
from kernel_gateway.api import problems, trace
from kernel_gateway.api.problems import ProblemError, invalid, refused
from kernel_gateway.api.services import Services
from kernel_gateway.events import metrics
from kernel_gateway.events.declared import subscribed_by
from kernel_gateway.events.groups import move
from kernel_gateway.events.kafka import kafka_of
from kernel_gateway.events.letter_routes import retried
from kernel_gateway.events.owners import require_owner
from kernel_gateway.events.publishing import DATA, MOST, NewEvent, Outcome, publish
from kernel_gateway.events.wire import events_pb2 as wire

SECONDS = 20.0
MAX_MESSAGE = 1_100_000
"""Bytes of a request."""
DOMAIN = "platform-kernel.io"

SERVICE: str = wire.DESCRIPTOR.services_by_name["EventService"].full_name
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

log = logging.getLogger("kernel_gateway.access")

Context = grpc.aio.ServicerContext[Any, Any]
Method = tuple[Callable[[Identity, Any], Awaitable[Message]], type[Message], Rule]


class EventServer:
    """``port`` is known after ``start``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._health = health.HealthServicer()
        self.port = 0
        methods: dict[str, Method] = {
            "Publish": (self._publish, wire.PublishRequest, Rule()),
            "BatchPublish": (self._batch_publish, wire.BatchPublishRequest, Rule()),
            "DLQRetry": (self._retry, wire.DLQRetryRequest, Rule(permission="events.dlq.retry")),
            "ReplayFrom": (self._replay, wire.ReplayFromRequest, Rule(permission="events.seek")),
        }
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", 100),
            ]
        )
        handlers = {name: self._handler(name, method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the port is taken."""
        try:
            self.port = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError:
            raise OSError(98, "the address is in use") from None
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Calls under way have ``grace`` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

    def _handler(self, name: str, method: Method) -> Any:
        work, request, rule = method

        async def called(message: Message, context: Context) -> Message:
            metadata: dict[str, list[str]] = {}
            for key, value in context.invocation_metadata() or ():
                metadata.setdefault(key, []).append(value if isinstance(value, str) else "")
            token = trace.current.set(trace.of((metadata.get("traceparent") or [""])[0]))
            began, code, identity = time.perf_counter(), grpc.StatusCode.OK, None
            try:
                verdict = await self._services.decider.decide(rule, metadata.get("authorization", []), "")
                if isinstance(verdict, Refused):
                    raise refused(verdict)
                identity = verdict.identity
                assert identity is not None, "no rule here is public"
                async with asyncio.timeout(min(SECONDS, context.time_remaining() or SECONDS)):
                    return await work(identity, message)
            except TimeoutError:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
                await context.abort(code, "it took too long; what was to be done may be done")
            except Exception as error:
                problem = problems.translate(error)
                if problem.status == 500:
                    log.error("an unexpected error", exc_info=error)
                code = _CODES.get(problem.status, grpc.StatusCode.INTERNAL)
                await _abort(context, code, problem)
            finally:
                _note(name, code, time.perf_counter() - began, identity)
                trace.current.reset(token)

        return grpc.unary_unary_rpc_method_handler(
            called,
            request_deserializer=request.FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )

    async def _publish(self, caller: Identity, request: wire.PublishRequest) -> wire.PublishResponse:
        if not request.HasField("event"):
            raise invalid("event", "it is missing", "REQUIRED")
        [outcome] = await publish(self._services, caller, [_event(request.event, "event")])
        if outcome.problem is not None:
            raise outcome.problem
        metrics.published.inc()
        return wire.PublishResponse(id=str(outcome.id), topic=outcome.topic)

    async def _batch_publish(self, caller: Identity, request: wire.BatchPublishRequest) -> wire.BatchPublishResponse:
        if not 1 <= len(request.events) <= MOST:
            raise invalid("events", f"there must be 1 to {MOST} events", "TOO_LONG" if request.events else "TOO_SHORT")
        events = [_event(event, f"events.{place}") for place, event in enumerate(request.events)]
        outcomes = await publish(self._services, caller, events)
        metrics.published.inc(sum(outcome.problem is None for outcome in outcomes))
        return wire.BatchPublishResponse(outcomes=[_outcome(outcome) for outcome in outcomes])

    async def _retry(self, caller: Identity, request: wire.DLQRetryRequest) -> wire.DLQRetryResponse:
        letter = await retried(self._services, caller, _uuid("id", request.id))
        answer = wire.DLQRetryResponse(id=str(letter["id"]), original_topic=letter["original_topic"])
        answer.retried_at.FromDatetime(letter["retried_at"])
        return answer

    async def _replay(self, caller: Identity, request: wire.ReplayFromRequest) -> wire.ReplayFromResponse:
        await require_owner(self._services, caller, "a group works for all tenants of a module")
        moment, place = None, None
        match request.WhichOneof("position"):
            case "time":
                moment = _moment(request)
            case "offset":
                place = (request.offset.partition, request.offset.offset)
            case _:
                raise invalid("position", "say time or offset", "REQUIRED")
        kafka = kafka_of(self._services)
        by_slug = await subscribed_by(self._services.valkey)
        positions = await move(kafka, by_slug, request.group, request.topic, time=moment, place=place)
        return wire.ReplayFromResponse(
            positions=[wire.PartitionOffset(partition=p.partition, offset=p.offset or 0) for p in positions]
        )


def _event(given: wire.NewEvent, field: str) -> NewEvent:
    """Raises ProblemError."""
    document: dict[str, object] = {"type": given.type, "schemaVersion": given.schema_version or "1.0.0"}
    if given.id:
        document["id"] = given.id
    try:
        document["data"] = DATA.validate_json(given.data_json or "{}")
    except ValidationError as error:
        raise invalid(f"{field}.data_json", str(error.errors(include_input=False)[0]["msg"])) from None
    try:
        return NewEvent.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = {"schemaVersion": "schema_version", "data": "data_json"}.get(str(first["loc"][0]), str(first["loc"][0]))
        raise invalid(f"{field}.{name}", str(first["msg"])) from None


def _outcome(outcome: Outcome) -> wire.Outcome:
    if outcome.problem is None:
        return wire.Outcome(id=str(outcome.id), topic=outcome.topic)
    field = outcome.problem.errors[0].field if outcome.problem.errors else ""
    problem = wire.Problem(slug=outcome.problem.slug, detail=str(outcome.problem), field=field)
    return wire.Outcome(id=str(outcome.id), problem=problem)


def _uuid(field: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise invalid(field, "it must be a UUID") from None


def _moment(request: wire.ReplayFromRequest) -> datetime:
    seconds = request.time.seconds
    if not 86_400 <= seconds <= 221_845_392_000:
        raise invalid("time", "it must be between 1970-01-02 and 9000-01-01", "OUT_OF_RANGE")
    return datetime.fromtimestamp(seconds, UTC)


async def _abort(context: Context, code: grpc.StatusCode, problem: ProblemError) -> NoReturn:
    status = status_pb2.Status(code=code.value[0], message=str(problem))
    info = error_details_pb2.ErrorInfo(reason=problem.slug, domain=DOMAIN, metadata={"traceId": trace.current.get()})
    status.details.add().Pack(info)
    if problem.errors:
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=map(_violation, problem.errors)))
    await context.abort(code, str(problem), (("grpc-status-details-bin", status.SerializeToString()),))
    raise AssertionError("abort raises")


def _violation(error: FieldError) -> "error_details_pb2.BadRequest.FieldViolation":
    return error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message, reason=error.code)


def _note(name: str, code: grpc.StatusCode, seconds: float, identity: Identity | None) -> None:
    metrics.grpc_seconds.labels(name, code.name).observe(seconds)
    who = {"user": str(identity.user), "tenant": str(identity.tenant)} if identity else {}
    log.info(
        "gRPC %s",
        name,
        extra=about(status=code.name, ms=round(seconds * 1000, 1), trace_id=trace.current.get(), **who),
    )
