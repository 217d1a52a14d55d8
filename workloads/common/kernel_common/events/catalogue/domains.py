"""The kernel's domains: one topic each, what its events are ordered by, and how long they are kept."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Domain:
    """``key_field``: the field of ``data`` whose value is the message's key; without one, the tenant's id."""

    name: str
    about: str
    key_field: str | None
    retention_hours: int = 168

    @property
    def topic(self) -> str:
        return f"platform.{self.name}.events"


DOMAINS = {
    domain.name: domain
    for domain in (
        Domain("auth", "People, sessions, roles and tenants", "userId"),
        Domain("module", "Modules as they come, change and go", "moduleId"),
        Domain("money", "Wallets, holds and transfers", "walletId"),
        Domain("data", "Changes of records in captured tables, as change data capture publishes them", "recordId"),
        Domain("files", "Files", "fileId"),
        Domain("notify", "Notifications", "userId"),
        Domain("audit", "The audit trail", "entityId", retention_hours=720),
        Domain("billing", "Plans and subscriptions", None),
    )
}
"""By name. Every other domain is a module's own, named by its slug, and ordered by tenant."""


def key_field(domain: str) -> str | None:
    """None: the events of ``domain`` are ordered by tenant."""
    return DOMAINS[domain].key_field if domain in DOMAINS else None
