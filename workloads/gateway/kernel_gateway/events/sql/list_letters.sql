-- Newest first. $1 status, $2 original topic, $3 consumer group, $4 event type, each NULL for any; $5, $6: first failed from,
-- until; $7: after which one; $8: how many.
SELECT id, tenant_id, event_id, event_type, original_topic, partition, "offset", consumer_group, error, attempts, status,
  first_failed_at, retried_at, resolved_at
FROM kernel.dlq_records
WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR original_topic = $2)
  AND ($3::text IS NULL OR consumer_group = $3) AND ($4::text IS NULL OR event_type = $4)
  AND ($5::timestamptz IS NULL OR first_failed_at >= $5) AND ($6::timestamptz IS NULL OR first_failed_at < $6)
  AND ($7::uuid IS NULL OR id < $7)
ORDER BY id DESC LIMIT $8
