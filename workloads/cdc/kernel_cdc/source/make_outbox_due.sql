-- Has the outbox published again. $1: why; $2: also when its row says that it was.
INSERT INTO kernel.cdc_snapshots AS s (name, why) VALUES ('kernel.outbox', $1)
ON CONFLICT (name) DO UPDATE SET
  why = excluded.why, requested_at = greatest(clock_timestamp(), s.requested_at + interval '1 microsecond'),
  started_at = NULL, finished_at = NULL, done_up_to = NULL
WHERE $2
