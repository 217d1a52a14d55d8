"""The whole way of a request, against Envoy that decides nothing and Envoy that decides by itself.

One core has Envoy and all that it asks (gateway, Valkey), the other has the load and the upstream; all three variants
meet the same load over TLS in the same run. A hundred tenants' tokens take turns. See ``bench/load``.
"""

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psutil

from bench.embedded import administrator, embedded_platform, ready_at, tenant
from bench.measure import Measure
from kernel_common.ids import tenant_id
from kernel_gateway.tokens.keyring import KeyRing
from kernel_gateway.tokens.tokens import Claims, issue
from kernel_local import ports, probe
from kernel_local.parts.envoy import binary
from kernel_local.testing import PlatformServers
from kernel_local.toolchain import go
from kernel_operator.kube import MODULES, TENANTS, path_of

TENANTS_IN_TURN = 100
CONNECTIONS = 32
SECONDS = 10.0
WARM = 3.0
PATH = "/api/v1/bench/things"
SERVED, LOADING = {0}, {1}
"""The cores."""
_MANY = 10_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """``cpu`` is milliseconds of the served core's processes a request."""

    per_second: float
    p50: float
    p99: float
    cpu: float


async def run() -> list[Measure]:
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("bench gateway: needs two cores, one for what is measured and one for the load")
    upstream_port = ports.choose(set())
    os.environ |= {
        "GATEWAY_UPSTREAM_OVERRIDES": json.dumps({"bench": f"127.0.0.1:{upstream_port}"}),
        "LOCAL_RATE_PER_SEC": str(_MANY),
    }
    with embedded_platform() as (servers, _), tempfile.TemporaryDirectory() as folder:
        bench = _Bench(servers, Path(folder), await _built(servers, Path(folder)))
        with bench.upstream(upstream_port):
            bench.tokens.write_text("\n".join(await _tokens(servers)) + "\n")
            alone = await bench.reference("alone", upstream_port)
            own = await bench.reference("jwt", upstream_port)
            ours = await bench.product(None)
            half = max(ours.per_second, 1.0) / 2
            ours_at_half = await bench.product(half)
            alone_at_half = await bench.reference("alone", upstream_port, half)
    return [
        _rate("decision, limit and rights of every request", ours, "Envoy alone", alone, 0.25),
        _rate("the same", ours, "Envoy with jwt_authn, its cache and its local limiter", own, 0.3),
        Measure("gateway", "p50 under full load", ours.p50, "ms", "Envoy alone", alone.p50, 5.0, "lower"),
        Measure("gateway", "p99 under full load", ours.p99, "ms", "Envoy alone", alone.p99, 5.0, "lower"),
        Measure(
            "gateway",
            f"p99 that is added at half load ({half:,.0f} requests/s)",
            ours_at_half.p99 - alone_at_half.p99,
            "ms",
            "target",
            3.0,
            1.0,
            "lower",
        ),
        Measure("gateway", "CPU a request, all processes", ours.cpu, "ms", "Envoy alone", alone.cpu, 4.0, "lower"),
    ]


def _rate(measure: str, ours: Load, name: str, reference: Load, target: float) -> Measure:
    return Measure("gateway", measure, ours.per_second, "requests/s", name, reference.per_second, target, "higher")


async def _built(servers: PlatformServers, folder: Path) -> Path:
    """The load generator, compiled."""
    program, source = folder / "load", Path(__file__).parent / "load"
    compiler = await go.find(servers.site, "1.24")
    command = [str(compiler), "build", "-o", str(program), "."]
    await asyncio.to_thread(subprocess.run, command, cwd=source, check=True, timeout=300)
    return program


async def _tokens(servers: PlatformServers) -> list[str]:
    """A token of the owner of each of the tenants, who have a module ``bench`` that the upstream stands for."""
    names = [f"bench-{n}" for n in range(TENANTS_IN_TURN)]
    limits = {"requestsPerMinute": _MANY, "adminRequestsPerMinute": _MANY, "burst": 100_000}
    async with administrator(servers) as kube:
        await kube.call("POST", path_of(TENANTS), tenant("root", "owner", None))
        for name in names:
            body = tenant(name)
            body["spec"]["rateLimit"] = limits
            await kube.call("POST", path_of(TENANTS), body)
        await ready_at(kube, TENANTS, len(names) + 1, 120)
        await kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": "bench"}})
        rule = {"methods": ["GET"], "path": "/things", "permission": "bench.things.read"}
        spec = {
            "moduleName": "@test/bench",
            "version": "1.0.0",
            "tenants": {"names": names},
            "permissions": ["bench.things.read"],
            "route": {"prefix": "/api/v1/bench", "service": {"name": "bench", "port": 80}, "rules": [rule]},
        }
        meta = {"apiVersion": "platform-kernel.io/v1alpha1", "kind": "KernelModule", "metadata": {"name": "bench"}}
        await kube.call("POST", path_of(MODULES, "bench"), meta | {"spec": spec})
        await ready_at(kube, MODULES, 1, 120)
    owners = await _owners(servers, names)
    keys = KeyRing.load(Path(servers.gateway.env["GATEWAY_KEYS_DIRECTORY"]))
    now = int(time.time())
    issuer = servers.gateway.env["GATEWAY_PUBLIC_URL"]
    return [
        issue(Claims(user, tenant, ("Owner",), now, now + 3600, uuid4(), None), keys.signer(now), issuer)
        for tenant, user in owners.items()
    ]


async def _owners(servers: PlatformServers, names: list[str]) -> dict[UUID, UUID]:
    connection = await asyncpg.connect(servers.env["DATABASE_URL"])
    try:
        rows = await connection.fetch(
            "SELECT tenant_id, user_id FROM auth.members WHERE tenant_id = ANY ($1)", [tenant_id(n) for n in names]
        )
    finally:
        await connection.close()
    return {row["tenant_id"]: row["user_id"] for row in rows}


class _Bench:
    def __init__(self, servers: PlatformServers, folder: Path, program: Path) -> None:
        self._servers, self._folder, self._program = servers, folder, program
        self.tokens = folder / "tokens"

    @contextmanager
    def upstream(self, port: int) -> Iterator[None]:
        with _process([self._program, "upstream", "-listen", f"127.0.0.1:{port}"]) as pid:
            _pin(pid, LOADING)
            yield

    async def product(self, rate: float | None) -> Load:
        """Everything as a user gets it."""
        served = [self._servers.envoy.pid, self._servers.gateway.pid, self._servers.valkey.pid]
        for pid in served:
            _pin(pid, SERVED)
        return await self._measured(self._servers.envoy.port, served, rate)

    async def reference(self, kind: str, upstream_port: int, rate: float | None = None) -> Load:
        """Another Envoy with the same listener, but for the filters."""
        port, admin = ports.choose(set()), ports.choose(set())
        configuration = self._folder / f"{kind}.json"
        configuration.write_text(json.dumps(self._document(kind, port, admin, upstream_port)))
        command: list[str | Path] = [
            binary(),
            "-c",
            configuration,
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--log-level",
            "error",
        ]
        with _process(command) as pid:
            await _ready(admin)
            _pin(pid, SERVED)
            return await self._measured(port, [pid], rate)

    async def _measured(self, port: int, served: list[int], rate: float | None) -> Load:
        await self._load(port, WARM, rate)
        before = _cpu(served)
        found = await self._load(port, SECONDS, rate)
        spent = _cpu(served) - before
        if found["errors"] or set(found["statuses"]) != {"200"}:
            raise SystemExit(f"bench gateway: not every request was answered with 200: {found}")
        return Load(found["per_second"], found["p50_ms"], found["p99_ms"], spent * 1000 / found["requests"])

    async def _load(self, port: int, seconds: float, rate: float | None) -> dict[str, Any]:
        options = {
            "address": f"127.0.0.1:{port}",
            "path": PATH,
            "tokens": self.tokens,
            "connections": CONNECTIONS,
            "seconds": seconds,
            "rate": rate or 0,
        }
        command = [str(self._program), "run", *(f"-{name}={value}" for name, value in options.items())]
        process = await asyncio.create_subprocess_exec(
            *("taskset", "-c", ",".join(map(str, LOADING)), *command), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(seconds + 30):
            output, _ = await process.communicate()
        found: dict[str, Any] = json.loads(output)
        return found

    def _document(self, kind: str, port: int, admin: int, upstream_port: int) -> dict[str, Any]:
        filters = [_typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")]
        if kind == "jwt":
            filters = [*self._own_decision(), *filters]
        route = {"match": {"prefix": "/"}, "route": {"cluster": "up"}}
        manager = _typed(
            "http",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="http",
            http_filters=filters,
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        )
        folder = self._servers.envoy.authority.parent
        certificate = {
            "certificate_chain": {"filename": str(folder / "tls.crt")},
            "private_key": {"filename": str(folder / "tls.key")},
        }
        context = _typed(
            "tls",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={"tls_certificates": [certificate], "alpn_protocols": ["h2", "http/1.1"]},
        )
        return {
            "admin": {"address": _address(admin)},
            "static_resources": {
                "listeners": [
                    {
                        "name": "https",
                        "address": _address(port),
                        "filter_chains": [{"transport_socket": context, "filters": [manager]}],
                    }
                ],
                "clusters": [
                    {
                        "name": "up",
                        "type": "STATIC",
                        "load_assignment": {
                            "cluster_name": "up",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream_port)}}]}],
                        },
                    }
                ],
            },
        }

    def _own_decision(self) -> list[dict[str, Any]]:
        keys = KeyRing.load(Path(self._servers.gateway.env["GATEWAY_KEYS_DIRECTORY"]))
        provider = {
            "issuer": self._servers.gateway.env["GATEWAY_PUBLIC_URL"],
            "audiences": ["platform-kernel"],
            "local_jwks": {"inline_string": json.dumps(keys.jwks())},
            "jwt_cache_config": {"jwt_cache_size": 1000},
        }
        always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        return [
            _typed(
                "envoy.filters.http.jwt_authn",
                "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                providers={"kernel": provider},
                rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "kernel"}}],
            ),
            _typed(
                "envoy.filters.http.local_ratelimit",
                "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
                stat_prefix="local",
                token_bucket={"max_tokens": _MANY, "tokens_per_fill": _MANY, "fill_interval": "1s"},
                filter_enabled=always,
                filter_enforced=always,
            ),
        ]


def _typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{kind}", **fields}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _pin(pid: int, cores: set[int]) -> None:
    """Every thread of the process and of its children."""
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        for thread in one.threads():
            os.sched_setaffinity(thread.id, cores)


def _cpu(pids: list[int]) -> float:
    """Seconds that the processes and their children have used."""
    found = [psutil.Process(pid) for pid in pids]
    return sum(sum(one.cpu_times()[:2]) for p in found for one in (p, *p.children(recursive=True)))


async def _ready(admin: int) -> None:
    for _ in range(200):
        if await probe.answers(admin, "/ready"):
            return
        await asyncio.sleep(0.05)
    raise SystemExit("bench gateway: the reference Envoy did not come up")


@contextmanager
def _process(command: Sequence[str | Path]) -> Iterator[int]:
    """The pid of what runs meanwhile."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
