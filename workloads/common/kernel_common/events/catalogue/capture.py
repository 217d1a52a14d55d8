"""What change data capture publishes on ``platform.data.events``. These messages are no envelopes, and the source alone
writes them."""

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from kernel_common.events.catalogue.payload import Payload, Text

_LSN = Field(ge=0, description="Place in PostgreSQL's log; grows with each change of a record")


class _Captured(Payload):
    module: Text = Field(description="The module's slug")
    model: Text


class RecordChanged(_Captured):
    """A record was created (c), updated (u) or deleted (d), or was read again by a snapshot (s). Keep the newest
    ``updated_at`` of a record."""

    op: Literal["c", "u", "d", "s"]
    tenant_id: UUID
    record_id: UUID
    lsn: int = _LSN
    committed_at: AwareDatetime = Field(description="For s: when it was read")
    row: dict[str, Any] = Field(description="The record's other columns, under their own names")
    deleted_at: AwareDatetime | None = None


class TableSwept(_Captured):
    """A snapshot of the table has ended, one message a partition. Of records whose key belongs to the partition,
    whoever was last told of before ``lsn`` is gone."""

    op: Literal["w"]
    lsn: int = _LSN
    partition: int = Field(ge=0)
    partitions: int = Field(ge=1)
    committed_at: AwareDatetime


class Heartbeat(Payload):
    """Everything that was committed before is in the topic before, one message a partition."""

    op: Literal["h"]
    lsn: int = _LSN
    partition: int = Field(ge=0)
    partitions: int = Field(ge=1)
    committed_at: AwareDatetime
