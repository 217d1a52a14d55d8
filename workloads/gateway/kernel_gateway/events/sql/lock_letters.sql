-- The next letters to send again, in the order in which they came; of those that are wanted, as many as fit into $6 bytes, one
-- at least. $1 original topic, $2 consumer group, $3 event type, each NULL for any; $4, $5: first failed from, until; $7: how
-- many. What others are sending is left to them.
WITH locked AS (
  SELECT * FROM kernel.dlq_records
  WHERE status = 'pending' AND NOT cut AND ($1::text IS NULL OR original_topic = $1)
    AND ($2::text IS NULL OR consumer_group = $2) AND ($3::text IS NULL OR event_type = $3)
    AND ($4::timestamptz IS NULL OR first_failed_at >= $4) AND ($5::timestamptz IS NULL OR first_failed_at < $5)
  ORDER BY original_topic, partition, "offset", id LIMIT $7
  FOR UPDATE SKIP LOCKED
),
summed AS (
  SELECT *, sum(coalesce(length(envelope), 0)) OVER w AS bytes, row_number() OVER w AS place
  FROM locked WINDOW w AS (ORDER BY original_topic, partition, "offset", id)
)
SELECT * FROM summed WHERE bytes <= $6 OR place = 1 ORDER BY place
