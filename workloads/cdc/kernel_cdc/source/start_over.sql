-- What was read while the stream was further than where it begins again is read again. $1: the slot.
UPDATE kernel.cdc_snapshots AS s SET
  requested_at = greatest(clock_timestamp(), s.requested_at + interval '1 microsecond'),
  started_at = NULL, sweep_lsn = NULL, stream_lsn = NULL, done_up_to = NULL
FROM pg_replication_slots AS slot
WHERE slot.slot_name = $1 AND s.finished_at IS NULL AND s.stream_lsn > slot.confirmed_flush_lsn
RETURNING s.name
