-- Makes captured tables due, and returns their names. $1: the publication; $2: why; $3: which, NULL for all;
-- $4: also those that have a row already, unless the table has left the publication and come back since.
INSERT INTO kernel.cdc_snapshots AS s (name, membership, why)
SELECT n.nspname || '.' || c.relname, r.oid, $2
FROM pg_publication AS p
JOIN pg_publication_rel AS r ON r.prpubid = p.oid
JOIN pg_class AS c ON c.oid = r.prrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.pubname = $1 AND ($3::text[] IS NULL OR n.nspname || '.' || c.relname = ANY ($3))
ON CONFLICT (name) DO UPDATE SET
  membership = excluded.membership, why = excluded.why,
  requested_at = greatest(clock_timestamp(), s.requested_at + interval '1 microsecond'),
  started_at = NULL, finished_at = NULL, sweep_lsn = NULL, stream_lsn = NULL, done_up_to = NULL
WHERE $4 OR s.membership IS DISTINCT FROM excluded.membership
RETURNING name
