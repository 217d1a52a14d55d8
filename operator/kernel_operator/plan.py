"""From resources to desired states: pure functions over the view of the cluster.

What the API server could judge from one object alone it has judged (``crds/``). Here is judged what
takes a look at other objects or at the operator's configuration; the answer is a state or a refusal.
"""

from collections.abc import Iterable
from uuid import UUID

from packaging.specifiers import InvalidSpecifier, SpecifierSet

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
from kernel_operator.resources import KernelModule, Tenant
from kernel_operator.resources.annotations import ADOPT
from kernel_operator.resources.reserved import KERNEL_SCOPE
from kernel_operator.settings import VERSION, Settings

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
        tenants=frozenset(tenant.id for tenant in selected(cluster, module) if tenant.name in cluster.bound),
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
    """Of two that want the same, the one that was there first has it; who is refused himself keeps nobody out."""
    held: list[KernelModule] = []
    for one in sorted(cluster.modules(), key=lambda m: (m.creation_timestamp, m.uid)):
        refusal = _not_allowed(one, settings) or _taken(one, held)
        if one.uid == module.uid:
            return refusal
        if refusal is None:
            held.append(one)
    return None


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


def _taken(module: KernelModule, held: Iterable[KernelModule]) -> Refusal | None:
    for other in held:
        if other.slug == module.slug:
            return Refusal(
                "SlugTaken",
                f"spec.moduleName: the slug {module.slug!r} is held by {other.spec.module_name} "
                f"({other.namespace}/{other.name}); rename this module, or delete the other",
            )
        mine, theirs = module.spec.route, other.spec.route
        if mine and theirs and _overlap(mine.prefix, theirs.prefix):
            return Refusal(
                "RouteTaken",
                f"spec.route.prefix: {mine.prefix} overlaps {theirs.prefix} of "
                f"{other.namespace}/{other.name}; choose another prefix",
            )
    return None


def _overlap(one: str, other: str) -> bool:
    a, b = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return a.startswith(b) or b.startswith(a)


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
