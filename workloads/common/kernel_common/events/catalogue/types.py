"""Every event type of the kernel.

A payload may get further optional fields, and a higher minor ``version`` with them. Whatever else would change
is a new type.
"""

from dataclasses import dataclass

from pydantic import BaseModel

from kernel_common.events.catalogue import auth, capture, money, notify, registry
from kernel_common.events.catalogue.domains import DOMAINS, Domain


@dataclass(frozen=True, slots=True)
class EventType:
    name: str
    payload: type[BaseModel]
    version: str = "1.0.0"

    @property
    def domain(self) -> Domain:
        return DOMAINS[self.name.partition(".")[0]]


EVENTS = {
    event.name: event
    for event in (
        EventType("auth.user.created", auth.UserCreated),
        EventType("auth.user.invited", auth.UserInvited),
        EventType("auth.user.updated", auth.UserUpdated),
        EventType("auth.user.deleted", auth.UserDeleted),
        EventType("auth.user.logged_in", auth.LoggedIn),
        EventType("auth.user.logged_out", auth.LoggedOut),
        EventType("auth.user.impersonated", auth.Impersonated),
        EventType("auth.session.reused", auth.SessionReused),
        EventType("auth.mfa.enabled", auth.SecondFactor),
        EventType("auth.mfa.disabled", auth.SecondFactor),
        EventType("auth.role.changed", auth.RoleChanged),
        EventType("auth.tenant.created", auth.TenantCreated),
        EventType("auth.tenant.updated", auth.TenantUpdated),
        EventType("auth.tenant.blocked", auth.TenantBlocked),
        EventType("auth.tenant.unblocked", auth.TenantBlocked),
        EventType("auth.tenant.deleted", auth.TenantDeleted),
        EventType("module.registry.registered", registry.ModuleSeen),
        EventType("module.registry.activated", registry.ModuleSeen),
        EventType("module.registry.deactivated", registry.ModuleSeen),
        EventType("module.registry.updated", registry.ModuleUpdated),
        EventType("module.registry.failed", registry.ModuleFailed),
        EventType("module.registry.removed", registry.ModuleRemoved),
        EventType("money.wallet.credited", money.WalletMoved),
        EventType("money.wallet.debited", money.WalletMoved),
        EventType("money.hold.created", money.HoldCreated),
        EventType("money.hold.confirmed", money.HoldEnded),
        EventType("money.hold.canceled", money.HoldEnded),
        EventType("money.hold.expired", money.HoldExpired),
        EventType("money.transfer.completed", money.TransferCompleted),
        EventType("money.transaction.reversed", money.TransactionReversed),
        EventType("notify.notification.sent", notify.NotificationSent),
    )
}
"""By name. Their messages are envelopes with ``payload`` as ``data``."""

CAPTURE: dict[str, type[BaseModel]] = {
    "data.record.changed": capture.RecordChanged,
    "data.table.swept": capture.TableSwept,
    "data.heartbeat": capture.Heartbeat,
}
"""By the header ``type``: messages that are no envelopes."""


def version_of(type: str | None) -> str:
    """The schema version of a type's payload: the catalogue's, or the first."""
    event = EVENTS.get(type or "")
    return event.version if event else "1.0.0"
