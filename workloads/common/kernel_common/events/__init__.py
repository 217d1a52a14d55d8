"""Domain events: what one looks like, and how a change announces itself."""

from kernel_common.events.catalogue import UnfitEvent
from kernel_common.events.envelope import MAX_BYTES, Envelope
from kernel_common.events.outbox import EventNotDeclared, NotInTransaction, emit

__all__ = ["MAX_BYTES", "Envelope", "EventNotDeclared", "NotInTransaction", "UnfitEvent", "emit"]
