"""From resources to desired states: pure functions over the view of the cluster.

What the API server could judge from one object alone it has judged (``crds/``). Here is judged what
takes a look at other objects or at the operator's configuration; the answer is a state or a refusal.
"""

from functools import lru_cache
from uuid import UUID

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from kernel_common.ids import tenant_id
from kernel_operator.cluster import Cluster
from kernel_operator.desired import (
    Column,
    Model,
    ModuleState,
    Refusal,
    Route,
    RouteRule,
    TenantLimits,
    TenantState,
    Tier,
)
from kernel_operator.kube import MODULES
from kernel_operator.queue import Key
from kernel_operator.resources import KernelModule, Tenant
from kernel_operator.resources.annotations import ADOPT
from kernel_operator.resources.reserved import KERNEL_SCOPE
from kernel_operator.settings import VERSION, Settings

ACCEPTED = "Accepted"
"""The condition of a module that says whether its plan was accepted."""

_id_of = lru_cache(maxsize=20_000)(tenant_id)
"""Every plan of a module asks for the ids of its tenants; deriving them is most of its time."""

_MAY_HOLD = {Tier.OWNER: (Tier.PARTNER, Tier.CLIENT), Tier.PARTNER: (Tier.CLIENT,), Tier.CLIENT: ()}


def plan_tenant(cluster: Cluster, tenant: Tenant) -> TenantState | Refusal:
    """The state of ``tenant``, or why it can't be."""
    ancestors = _ancestors(cluster, tenant)
    if isinstance(ancestors, Refusal):
        return ancestors
    spec = tenant.spec
    return TenantState(
        id=tenant.id,
        name=tenant.name,
        uid=tenant.uid,
        display_name=spec.display_name,
        tier=spec.tier,
        owner_email=spec.owner.email,
        ancestors=tuple(ancestor.id for ancestor in ancestors),
        suspended=spec.suspended,
        blocked=spec.suspended or any(ancestor.spec.suspended for ancestor in ancestors),
        limits=TenantLimits(
            requests_per_minute=spec.rate_limit.requests_per_minute,
            admin_requests_per_minute=spec.rate_limit.admin_requests_per_minute,
            burst=spec.rate_limit.burst,
            max_connections=spec.notifications.max_connections,
            messages_per_second=spec.notifications.messages_per_second,
            max_open_holds_per_wallet=spec.money.max_open_holds_per_wallet,
            max_amount=spec.money.max_amount,
        ),
        adopt=_uuid(tenant.annotations.get(ADOPT, "")),
    )


def _ancestors(cluster: Cluster, tenant: Tenant) -> list[Tenant] | Refusal:
    """From the parent to the root; tiers fall along the way, so there is no cycle and at most two."""
    found: list[Tenant] = []
    child = tenant
    while child.spec.parent:
        parent = cluster.tenant(child.spec.parent)
        if parent is None:
            return Refusal(
                "ParentNotFound",
                f"spec.parent: there is no Tenant {child.spec.parent!r}; create it, or name another in a new Tenant",
            )
        if child.spec.tier not in _MAY_HOLD[parent.spec.tier]:
            return Refusal(
                "ParentTierTooLow",
                f"spec.parent: a {child.spec.tier} can't be below the {parent.spec.tier} {parent.name!r}; "
                "a client belongs to a partner or an owner, a partner to an owner",
            )
        found.append(parent)
        child = parent
    return found


def plan_module(cluster: Cluster, module: KernelModule, settings: Settings) -> ModuleState | Refusal:
    """The state of ``module``, or why it can't be. Tenants that do not exist yet are left out."""
    if refusal := _judge(cluster, module, settings):
        return refusal
    spec = module.spec
    return ModuleState(
        slug=module.slug,
        module_name=spec.module_name,
        namespace=module.namespace,
        name=module.name,
        uid=module.uid,
        version=spec.version,
        models=tuple(
            Model(
                name=model.name,
                columns=tuple(Column(f.name, f.type, f.required) for f in model.fields),
                analytics=model.analytics.enabled,
                retention_days=model.analytics.retention_days,
            )
            for model in spec.data_api.models
        ),
        permissions=tuple(spec.permissions),
        publishes=tuple(spec.events.publishes),
        subscribes=tuple(spec.events.subscribes),
        partitions=spec.events.partitions,
        retention_hours=spec.events.retention_hours,
        route=_route(module),
        health_path=spec.health_check.path if spec.health_check else None,
        notification_channels=tuple(spec.notification_channels),
        tenants=frozenset(_id_of(tenant.name) for tenant in selected(cluster, module) if tenant.name in cluster.bound),
        active=spec.enabled,
    )


def _route(module: KernelModule) -> Route | None:
    if (route := module.spec.route) is None:
        return None
    return Route(
        prefix=route.prefix,
        service=route.service.name,
        port=route.service.port,
        rules=tuple(RouteRule(tuple(r.methods), r.path, None if r.public else r.permission) for r in route.rules),
        max_body_bytes=route.max_body_bytes,
    )


def selected(cluster: Cluster, module: KernelModule) -> list[Tenant]:
    """The living tenants that ``module`` asks for."""
    wanted = module.spec.tenants
    return [t for t in cluster.tenants() if not t.deleting and wanted.selects(t.name, t.labels)]


def missing_tenants(cluster: Cluster, module: KernelModule) -> list[str]:
    """Names that the module asks for and that no living, bound tenant has."""
    there = {tenant.name for tenant in selected(cluster, module)} & cluster.bound
    return sorted(set(module.spec.tenants.names or ()) - there)


def _judge(cluster: Cluster, module: KernelModule, settings: Settings) -> Refusal | None:
    """Of two that want the same, the one that has it keeps it; who is refused himself keeps nobody out."""
    held = _Held()
    for one in sorted(cluster.modules(), key=lambda m: _rank(cluster, m)):
        refusal = _not_allowed(one, settings) or held.refusal(one)
        if one.uid == module.uid:
            return refusal
        if refusal is None:
            held.add(one)
    return None


def _rank(cluster: Cluster, module: KernelModule) -> tuple[int, str, str]:
    """Who was accepted as he is comes first, then who was accepted and has been edited since, then the others;
    among equals the one that was made first. So nobody edits himself into what another one has."""
    body = cluster.body(Key(MODULES, module.namespace, module.name)) or {}
    accepted = next((c for c in (body.get("status") or {}).get("conditions") or () if c["type"] == ACCEPTED), None)
    if accepted is None or accepted["status"] != "True":
        place = 2
    else:
        place = int(accepted.get("observedGeneration") != module.generation)
    return place, module.creation_timestamp, module.uid


def _not_allowed(module: KernelModule, settings: Settings) -> Refusal | None:
    spec = module.spec
    if spec.module_name.startswith(KERNEL_SCOPE) and module.namespace != settings.operator_namespace:
        return Refusal(
            "ScopeNotAllowed",
            f"spec.moduleName: the scope @kernel is the kernel's own; use a scope of yours, "
            f"or install it in the namespace {settings.operator_namespace!r}",
        )
    if spec.tenants.names_nobody and module.namespace not in settings.selector_namespaces:
        return Refusal(
            "SelectionNotAllowed",
            f"spec.tenants: modules of the namespace {module.namespace!r} may select tenants by names only; "
            "list them, or have the platform team add the namespace to OPERATOR_SELECTOR_NAMESPACES",
        )
    if spec.kernel_version and not _in_range(VERSION, spec.kernel_version):
        return Refusal(
            "KernelVersionMismatch", f"spec.kernelVersion: this kernel is {VERSION}, not {spec.kernel_version}"
        )
    return None


class _Held:
    """The slugs and route prefixes that are given away. Prefixes overlap when one is the other or lies above it."""

    def __init__(self) -> None:
        self._slugs: dict[str, KernelModule] = {}
        self._prefixes: dict[str, KernelModule] = {}
        self._above: dict[str, KernelModule] = {}

    def add(self, module: KernelModule) -> None:
        self._slugs[module.slug] = module
        if module.spec.route:
            self._prefixes[module.spec.route.prefix] = module
            self._above.update(dict.fromkeys(_ancestry(module.spec.route.prefix), module))

    def refusal(self, module: KernelModule) -> Refusal | None:
        if other := self._slugs.get(module.slug):
            return Refusal(
                "SlugTaken",
                f"spec.moduleName: the slug {module.slug!r} is held by {other.spec.module_name} "
                f"({other.namespace}/{other.name}); rename this module, or delete the other",
            )
        if module.spec.route and (other := self._overlapping(module.spec.route.prefix)):
            theirs = other.spec.route.prefix if other.spec.route else ""
            return Refusal(
                "RouteTaken",
                f"spec.route.prefix: {module.spec.route.prefix} overlaps {theirs} of "
                f"{other.namespace}/{other.name}; choose another prefix",
            )
        return None

    def _overlapping(self, prefix: str) -> KernelModule | None:
        found = (self._prefixes.get(path) for path in _ancestry(prefix))
        return self._above.get(prefix) or next((module for module in found if module), None)


def _ancestry(prefix: str) -> list[str]:
    """The prefix itself and every one above it: /a/b, /a."""
    parts = prefix.strip("/").split("/")
    return ["/" + "/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _in_range(version: str, wanted: str) -> bool:
    """``wanted`` is what the CRD lets through: comparators that must all hold; =X.Y stands for any X.Y.Z."""
    comparators = (f"=={part[1:]}.*" if part.startswith("=") else part for part in wanted.split())
    try:
        return version in SpecifierSet(",".join(comparators))
    except InvalidSpecifier:
        return False


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
