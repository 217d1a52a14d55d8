-- Makes the tables due that are finished, unless that was done since $1: Unix time of what the stream is at.
UPDATE kernel.cdc_snapshots SET
  why = 'lag spike', requested_at = greatest(clock_timestamp(), requested_at + interval '1 microsecond'),
  started_at = NULL, finished_at = NULL, sweep_lsn = NULL, stream_lsn = NULL, done_up_to = NULL
WHERE name <> 'kernel.outbox' AND finished_at IS NOT NULL AND NOT EXISTS (
  SELECT FROM kernel.cdc_snapshots WHERE why = 'lag spike' AND requested_at > to_timestamp($1))
RETURNING name
