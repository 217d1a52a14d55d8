"""The catalogue as an AsyncAPI 3.0 document.

Schemas are those of readers: they allow fields beside the ones that are named, because a publisher may be newer.
"""

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from kernel_common.events.catalogue.domains import DOMAINS, Domain
from kernel_common.events.catalogue.types import CAPTURE, EVENTS, EventType
from kernel_common.events.envelope import Envelope

Json = dict[str, Any]

_ABOUT = (
    "Events of the platform's kernel on Kafka. Each state change is announced in the transaction that makes it, and "
    "delivered at least once; events of one key keep their order. A reader ignores fields that it does not know: a "
    "payload may get further optional fields, with a higher minor `schemaVersion`. Any other change is a new type."
)
_SCHEMAS = "#/components/schemas/"


def document() -> Json:
    """The whole document, ready to be written as YAML or JSON."""
    payloads: list[type[BaseModel]] = [*(event.payload for event in EVENTS.values()), *CAPTURE.values()]
    as_read: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (payload, "validation") for payload in dict.fromkeys(payloads)
    ]
    _, definitions = models_json_schema(
        [(Envelope, "serialization"), *as_read],
        ref_template=_SCHEMAS + "{model}",
    )
    messages = {name: _event(event) for name, event in EVENTS.items()}
    messages |= {name: _captured(name, model) for name, model in CAPTURE.items()}
    messages["module.event"] = _modules_event()
    channels = {domain.name: _channel(domain) for domain in DOMAINS.values()}
    channels["ofModule"] = _channel_of_modules()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Platform-Kernel events",
            "version": "1.0.0",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            f"publish_{name}": {"action": "send", "channel": {"$ref": f"#/channels/{name}"}}
            for name, channel in channels.items()
            if channel["messages"]
        },
        "components": {
            "messages": messages,
            "schemas": {name: _for_readers(schema) for name, schema in sorted(definitions["$defs"].items())},
        },
    }


def _event(event: EventType) -> Json:
    ordered_by = event.domain.key_field
    here = ordered_by is not None and ordered_by in _fields(event.payload)
    return {
        "name": event.name,
        "title": event.name,
        "summary": _first_line(event.payload),
        "headers": _headers(event.name),
        "payload": {
            "allOf": [
                {"$ref": f"{_SCHEMAS}Envelope"},
                {
                    "type": "object",
                    "properties": {
                        "type": {"const": event.name},
                        "schemaVersion": {"type": "string", "examples": [event.version]},
                        "data": {"$ref": f"{_SCHEMAS}{event.payload.__name__}"},
                    },
                },
            ]
        },
        "bindings": _keyed(f"data.{ordered_by}, or the tenant's id where there is none" if here else "the tenant's id"),
    }


def _captured(name: str, model: type[BaseModel]) -> Json:
    key = {
        "data.record.changed": "recordId",
        "data.table.swept": "{module}.{model}; sent to every partition",
        "data.heartbeat": "any; sent to every partition",
    }[name]
    return {
        "name": name,
        "title": name,
        "summary": _first_line(model),
        "headers": {"type": "object", "required": ["type"], "properties": {"type": {"const": name}}},
        "payload": {"$ref": f"{_SCHEMAS}{model.__name__}"},
        "bindings": _keyed(key),
    }


def _modules_event() -> Json:
    return {
        "name": "module.event",
        "title": "{slug}.{entity}.{verb}",
        "summary": "An event that the module declares in spec.events.publishes; data is the module's matter.",
        "headers": _headers(None),
        "payload": {"$ref": f"{_SCHEMAS}Envelope"},
        "bindings": _keyed("the tenant's id"),
    }


def _channel(domain: Domain) -> Json:
    names = [name for name in (*EVENTS, *CAPTURE) if name.partition(".")[0] == domain.name]
    return {
        "address": domain.topic,
        "description": domain.about + ("" if names else ". No event is defined yet"),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": domain.topic,
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": domain.retention_hours * 3_600_000,
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def _channel_of_modules() -> Json:
    return {
        "address": "platform.{slug}.events",
        "description": "A module's own events; partitions and retention are its spec.events",
        "parameters": {"slug": {"description": "The module's slug, such as crm"}},
        "messages": {"module.event": {"$ref": "#/components/messages/module.event"}},
    }


def _headers(name: str | None) -> Json:
    """Kafka's headers, so that a filter need not parse the value."""
    kind: Json = {"type": "string"} if name is None else {"const": name}
    properties = {field: {"type": "string"} for field in ("id", "tenantId", "traceId")}
    return {"type": "object", "required": ["id", "type", "tenantId"], "properties": properties | {"type": kind}}


def _keyed(how: str) -> Json:
    return {"kafka": {"key": {"type": "string", "description": how}, "bindingVersion": "0.5.0"}}


def _fields(model: type[BaseModel]) -> set[str]:
    """Names on the wire of the model, or of every alternative that it has."""
    schema = model.model_json_schema()
    alternatives = [schema["$defs"][part["$ref"].rpartition("/")[2]] for part in schema.get("oneOf", ())] or [schema]
    return {name for part in alternatives for name in part.get("properties", ())}


def _first_line(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split()).replace("``", "`")


def _for_readers(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_for_readers(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        name: _for_readers(part)
        for name, part in schema.items()
        if not (name == "additionalProperties" and part is False) and not (name == "title" and isinstance(part, str))
    }
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split()).replace("``", "`")
    return kept
