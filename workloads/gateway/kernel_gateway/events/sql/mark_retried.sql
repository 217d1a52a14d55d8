UPDATE kernel.dlq_records SET status = 'retried', retried_at = clock_timestamp() WHERE id = ANY ($1)
RETURNING id, tenant_id, event_id, event_type, original_topic, partition, "offset", consumer_group, error, attempts, status,
  first_failed_at, retried_at, resolved_at
