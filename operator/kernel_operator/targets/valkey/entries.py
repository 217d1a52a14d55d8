"""What Valkey should hold of a module: its fields in the hashes, and its tenants.

A module that is not active has no membership, no route, no event rights and no channels. Its
permissions stay listed: roles that name them must survive a module that is off for an hour.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from kernel_operator.desired import ModuleState

PERMISSIONS, EVENTS, CHANNELS, ROUTES = "permissions", "events", "notify", "routes"
HASHES = {
    PERMISSIONS: "permissions:registry",
    EVENTS: "events:rights",
    CHANNELS: "notify:channels",
    ROUTES: "routes:table",
}
"""The hash, by slug, of each table. The table's name is the name of its version."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One module in Valkey: its field in each hash where it has one, and its tenants."""

    fields: Mapping[str, str] = field(default_factory=dict)
    tenants: frozenset[str] = frozenset()


def desired(module: ModuleState) -> Entry:
    fields: dict[str, str] = {}
    if module.permissions:
        fields[PERMISSIONS] = _text(list(module.permissions))
    if not module.active:
        return Entry(fields)
    if module.publishes or module.subscribes:
        fields[EVENTS] = _text({"publishes": list(module.publishes), "subscribes": list(module.subscribes)})
    if module.notification_channels:
        fields[CHANNELS] = _text(list(module.notification_channels))
    if route := route_text(module):
        fields[ROUTES] = route
    return Entry(fields, frozenset(str(tenant) for tenant in module.tenants))


def route_text(module: ModuleState) -> str | None:
    """What the gateway reads of the module's routes; ``permission`` is null on a public path. ``analytics`` are the
    models whose records can be asked about; a module that has them and no service of its own has nothing else."""
    analytics = [model.name for model in module.models if model.analytics]
    shared = {"version": module.version} | ({"analytics": analytics} if analytics else {})
    if (route := module.route) is None:
        return _text({"prefix": None, **shared}) if analytics else None
    return _text(
        {
            "prefix": route.prefix,
            "namespace": module.namespace,
            "service": route.service,
            "port": route.port,
            "rules": [
                {"methods": list(rule.methods), "path": rule.path, "permission": rule.permission}
                for rule in route.rules
            ],
            "maxBodyBytes": route.max_body_bytes,
            "healthPath": module.health_path,
            **shared,
        }
    )


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
