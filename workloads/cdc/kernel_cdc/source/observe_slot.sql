SELECT
  slot.slot_name IS NOT NULL AS exists,
  coalesce(slot.wal_status = 'lost', false) AS lost,
  coalesce(slot.wal_status = 'unreserved', false) AS unreserved,
  coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), slot.restart_lsn), 0)::bigint AS retained,
  coalesce(slot.confirmed_flush_lsn - '0/0', 0)::bigint AS confirmed
FROM (SELECT) AS one
LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = $1
