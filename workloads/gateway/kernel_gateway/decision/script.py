"""The scripts that Valkey runs, and their questions and answers as bytes.

Commands are put together from parts that are encoded once: what depends on the token is remembered with it, what
depends on the rule with the rule. So a question costs one concatenation.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from uuid import UUID

from kernel_gateway.access import Identity, Rule

ALLOWED, LIMITED, BLOCKED, INACTIVE, FORBIDDEN, MISS, COLD = range(7)

MEMBER = "@member"
"""Held by every active member of a tenant, whatever else they may."""
ERA = "rbac:era"
VERSION_SECONDS = 300
"""How long Valkey knows a version of rights; after that everybody's are read anew."""
ADMIN_ROLES = frozenset({"Owner", "Admin"})
"""Roles whose requests have a budget of their own."""


@dataclass(frozen=True, slots=True)
class Script:
    text: bytes
    sha: bytes


def script(text: bytes) -> Script:
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


def read(*names: str) -> bytes:
    """The text of Lua files of this package, one after the other."""
    return b"\n".join(files(__package__).joinpath(name).read_bytes() for name in names)


DECIDE = script(read("budget.lua", "decide.lua"))
ANONYMOUS = script(read("budget.lua", "anonymous.lua"))
KEEP = script(read("keep.lua"))
ANNOUNCE = script(read("announce.lua"))
SCRIPTS = (DECIDE, ANONYMOUS, KEEP, ANNOUNCE)
MARK = script(b"return 'kernel-gateway'")
"""Does nothing: a server that knows it is one that we spoke to since it started."""


def words(*parts: str | bytes | int) -> bytes:
    """``parts`` as Valkey's protocol carries them, without their number in front."""
    encoded = (part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)


def command(*parts: str | bytes | int) -> bytes:
    return b"*%d\r\n" % len(parts) + words(*parts)


def call(which: Script, keys: tuple[str, ...], *arguments: str | bytes | int) -> bytes:
    return command("EVALSHA", which.sha, len(keys), *keys, *arguments)


_DECIDE_HEAD = b"*16\r\n" + words("EVALSHA", DECIDE.sha, 1)


def person(identity: Identity) -> bytes:
    """The part of a question that depends on the token."""
    tenant, admin = identity.tenant, not ADMIN_ROLES.isdisjoint(identity.roles)
    return _DECIDE_HEAD + words(
        f"rate_limit:{tenant}:admin" if admin else f"rate_limit:{tenant}",
        f"rate_limit:config:{tenant}",
        f"tenant:blocked:{tenant}",
        version_key(tenant),
        epoch_key(tenant),
        ERA,
        f"modules:active:{tenant}",
        rights_key(tenant, identity.user),
        "adminRps" if admin else "rps",
    )


def version_key(tenant: UUID) -> str:
    return f"rbac:version:{tenant}"


def epoch_key(tenant: UUID) -> str:
    return f"modules:epoch:{tenant}"


def rights_key(tenant: UUID, user: UUID) -> str:
    return f"rbac:{tenant}:{user}"


@lru_cache(4096)
def demand(rule: Rule) -> bytes:
    """The part of a question that depends on the rule."""
    return words(rule.module or "", *sufficient(rule))


def sufficient(rule: Rule) -> tuple[str, str, str]:
    """What satisfies ``rule``: any one of these. The module of a permission is all before its first dot."""
    if rule.permission is None:
        return MEMBER, MEMBER, MEMBER
    return rule.permission, f"{rule.permission.partition('.')[0]}.*", "*"


@lru_cache(4096)
def anonymous(client: str, limit: int) -> bytes:
    """The question for a client without a token: ``limit`` requests a minute, a quarter of them at once."""
    return call(ANONYMOUS, (f"rate_limit:ip:{_budget_of(client)}",), limit, max(1, limit // 4))


def _budget_of(client: str) -> str:
    """Whoever has an IPv6 address has 2^64 of them: they share. So do all who come without an address."""
    try:
        address: IPv4Address | IPv6Address = ip_address(client.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return str(address)
