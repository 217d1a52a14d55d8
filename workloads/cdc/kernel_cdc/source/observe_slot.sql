SELECT
  slot.slot_name IS NOT NULL AS exists,
  coalesce(slot.wal_status = 'lost', false) AS lost,
  coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), slot.restart_lsn), 0)::bigint AS retained,
  EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $2) AS snapshot_due
FROM (SELECT) AS one
LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = $1
