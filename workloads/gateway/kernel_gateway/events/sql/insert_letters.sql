-- $1: an array of letters, as columns. A letter that is there (a crash wrote it twice, or we read it twice) stays as it is.
INSERT INTO kernel.dlq_records (tenant_id, event_id, event_type, original_topic, partition, "offset", consumer_group, key, envelope, cut,
  headers, error, attempts, first_failed_at)
SELECT nullif(current_setting('app.tenant_id', true), '')::uuid, *
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::bigint[], $6::text[], $7::bytea[], $8::bytea[], $9::boolean[],
  $10::jsonb[], $11::text[], $12::integer[], $13::timestamptz[])
ON CONFLICT DO NOTHING
