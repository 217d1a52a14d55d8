"""Domain events: what one looks like, and how a change announces itself."""

from kernel_common.events.envelope import MAX_BYTES, Envelope
from kernel_common.events.outbox import NotInTransaction, emit

__all__ = ["MAX_BYTES", "Envelope", "NotInTransaction", "emit"]
