-- Why a detached day of the outbox may not be dropped yet; NULL when it may. $1: the day's name; $2: the slot.
-- The slot is looked at before what is due: whoever makes a slot anew writes down first that the outbox is due.
SELECT CASE
  WHEN slot.slot_name IS NULL THEN format('the slot %s is missing', $2::text)
  WHEN slot.wal_status = 'lost' OR slot.invalidation_reason IS NOT NULL THEN format('the slot %s is lost', $2::text)
  WHEN slot.confirmed_flush_lsn IS NULL OR slot.confirmed_flush_lsn <= day.lsn
    THEN format('the slot %s has not passed it', $2::text)
  WHEN EXISTS (SELECT FROM kernel.cdc_snapshots WHERE name = 'kernel.outbox' AND finished_at IS NULL)
    THEN 'the outbox is to be published again'
END AS reason
FROM kernel.outbox_days AS day
LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = $2 AND slot.database = current_database()
WHERE day.name = $1
