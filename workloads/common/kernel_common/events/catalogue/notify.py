"""Notifications."""

from uuid import UUID

from kernel_common.events.catalogue.payload import Payload, Text


class NotificationSent(Payload):
    """A notification was handed to its channel."""

    notification_id: UUID
    channel: Text
    user_id: UUID | None = None
