"""The first owner of a tenant, and the Secret that tells who made the Tenant how to log in.

A tenant that has no owner gets the account of ``spec.owner.email``. An account that is there already, with an address
that was verified, becomes the owner as it is: its password is its person's, so there is no Secret. For a new one, and
for one that nobody has proven to be the address's, the password is made here, and the Secret
comes first, like a module's: PostgreSQL is given the hash of what the Secret holds, in the one transaction that makes
the account, the membership and the role. So a process that dies leaves a Secret whose password the next try sets, and
never an account whose password nobody knows. Where the account came into being otherwise in the meantime, the next try
finds it there and takes the Secret away before it makes the owner: a Secret never tells a password that opens nothing.

The Secret is the Tenant's, and goes with it. Once there is an owner nobody looks at it again: it may be deleted.
"""

import asyncio
import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from argon2 import PasswordHasher

from kernel_common.ids import tenant_id
from kernel_operator.credentials import SecretTaken, encoded, password_of
from kernel_operator.desired import NewOwner, Outcome, Refusal, Unavailable
from kernel_operator.kube import GROUP, VERSION, Kube, KubeError
from kernel_operator.reconcile.attempt import Result
from kernel_operator.resources import Tenant

log = logging.getLogger(__name__)

_HASHER = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
"""A slow hash protects passwords that can be guessed. These are 288 random bits, so a fast one loses nothing, and a
thousand tenants cost half a second instead of two minutes. The first login brings it to the gateway's own cost."""


class OwnerDatabase(Protocol):
    async def ownerless_tenants(self, tenants: Collection[UUID]) -> Mapping[UUID, bool]: ...
    async def make_owners(self, new: Sequence[NewOwner]) -> Collection[UUID]: ...


class Owners:
    """Gives tenants their first owners; see the module's text."""

    def __init__(self, kube: Kube, database: OwnerDatabase, namespace: str) -> None:
        """``namespace`` is where the Secrets lie: the operator's own."""
        self._kube, self._database, self._namespace = kube, database, namespace

    async def ensure(self, tenants: Sequence[Tenant]) -> dict[UUID, Result]:
        """See to it that each of ``tenants``, which PostgreSQL has, has an owner.

        The results of those that had none, by id; of all of them when PostgreSQL can't be asked.
        """
        by_id = {tenant_id(tenant.name): tenant for tenant in tenants}
        try:
            return await self._ensure(by_id) if by_id else {}
        except Unavailable as error:
            return dict.fromkeys(by_id, error)
        except Exception as error:
            log.exception("unexpected error while owners were made")
            return dict.fromkeys(by_id, error)

    async def _ensure(self, tenants: Mapping[UUID, Tenant]) -> dict[UUID, Result]:
        known = await self._database.ownerless_tenants(tenants.keys())
        if not known:
            return {}
        makers = _makers({identity: tenants[identity] for identity, there in known.items() if not there})
        prepared = await asyncio.gather(
            *(self._prepare(tenants[identity], makes=identity in makers) for identity in known)
        )
        results: dict[UUID, Result] = {}
        passwords: dict[UUID, str | None] = {}
        for identity, found in zip(known, prepared, strict=True):
            if isinstance(found, Refusal):
                results[identity] = Outcome(refusal=found)
            elif isinstance(found, Exception):
                results[identity] = found
            else:
                passwords[identity] = found
        hashes = await asyncio.to_thread(_hashes, passwords)
        made = await self._database.make_owners(
            [NewOwner(identity, _email(tenants[identity]), hashed) for identity, hashed in hashes.items()]
        )
        again = Unavailable("PostgreSQL", "the account of spec.owner.email, or the owner, came at the same moment")
        results.update({i: Outcome(("made the owner",)) if i in made else again for i in passwords})
        return results

    async def _prepare(self, tenant: Tenant, *, makes: bool) -> str | Refusal | Exception | None:
        """The password of the account to be made; None when it is there, or made by another tenant of the batch."""
        try:
            if makes:
                return await self._password(tenant)
            await self._remove_secret(tenant)
        except SecretTaken as error:
            return Refusal("SecretTaken", f"spec.owner: {error}")
        except (Unavailable, KubeError) as error:
            return error
        return None

    async def _password(self, tenant: Tenant) -> str:
        """The password in the tenant's Secret, which is made or mended when it has to be."""
        password = secrets.token_urlsafe(36)
        try:
            await self._kube.create_secret(self._secret(tenant, password))
        except KubeError as error:
            if error.status != 409:
                raise
        else:
            return password
        found = await self._kube.read_secret(self._namespace, secret_name(tenant))
        if found is None:  # gone again: of a former Tenant of that name
            raise Unavailable("Kubernetes", f"the Secret {secret_name(tenant)!r} was deleted at the same moment")
        _require_ours(found, tenant)
        password = password_of(found) or password
        await self._kube.patch_secret(self._secret(tenant, password))
        return password

    async def _remove_secret(self, tenant: Tenant) -> None:
        """Delete what an earlier try left; its password was never set. Somebody else's Secret stays."""
        found = await self._kube.read_secret(self._namespace, secret_name(tenant))
        if found is not None and _is_ours(found, tenant):
            await self._kube.delete_secret(found)

    def _secret(self, tenant: Tenant, password: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": secret_name(tenant),
                "namespace": self._namespace,
                "labels": {"app.kubernetes.io/managed-by": "platform-kernel", f"{GROUP}/tenant": tenant.name},
                "ownerReferences": [
                    {
                        "apiVersion": f"{GROUP}/{VERSION}",
                        "kind": "Tenant",
                        "name": tenant.name,
                        "uid": tenant.uid,
                        "controller": True,
                    }
                ],
            },
            "type": "Opaque",
            "data": encoded({"email": _email(tenant), "password": password}),
        }


def secret_name(tenant: Tenant) -> str:
    return f"tenant-{tenant.name}-owner"


def with_owner(database: Result, owner: Result | None) -> Result:
    """What PostgreSQL's condition tells: of the tenant, and when that stands, of its owner."""
    if owner is None or isinstance(database, Exception) or database.refusal:
        return database
    if isinstance(owner, Exception):
        return owner
    return Outcome((*database.changes, *owner.changes), owner.refusal)


def _makers(tenants: Mapping[UUID, Tenant]) -> set[UUID]:
    """For each address the tenant whose Secret tells the new account's password: the first by name."""
    first: dict[str, UUID] = {}
    for identity, tenant in sorted(tenants.items(), key=lambda item: item[1].name):
        first.setdefault(_email(tenant), identity)
    return set(first.values())


def _email(tenant: Tenant) -> str:
    return tenant.spec.owner.email.lower()


def _hashes(passwords: Mapping[UUID, str | None]) -> dict[UUID, str | None]:
    return {identity: _HASHER.hash(password) if password else None for identity, password in passwords.items()}


def _is_ours(secret: Mapping[str, Any], tenant: Tenant) -> bool:
    owners = secret["metadata"].get("ownerReferences") or []
    mine = secret["metadata"].get("labels", {}).get(f"{GROUP}/tenant") == tenant.name
    return mine and all(owner.get("kind") == "Tenant" and owner.get("name") == tenant.name for owner in owners)


def _require_ours(secret: Mapping[str, Any], tenant: Tenant) -> None:
    if not _is_ours(secret, tenant):
        raise SecretTaken(f"the Secret {secret_name(tenant)!r} belongs to something else; rename or delete it")
