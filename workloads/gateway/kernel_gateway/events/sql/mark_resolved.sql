UPDATE kernel.dlq_records SET status = 'resolved', resolved_at = coalesce(resolved_at, clock_timestamp()) WHERE id = $1
RETURNING id
