-- What the source of change data capture still has to read from tables, because the log does not hold it: one row a
-- captured table, and one for the outbox. A table is due (started_at is NULL), being read (done_up_to is how far Kafka
-- has it), or finished. It is the one table that kernel_cdc may write.
CREATE TABLE kernel.cdc_snapshots (
  name text PRIMARY KEY,
  membership oid,
  why text NOT NULL CHECK (why IN ('first start', 'slot lost', 'new table', 'lag spike', 'requested')),
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  started_at timestamptz,
  finished_at timestamptz,
  sweep_lsn pg_lsn,
  stream_lsn pg_lsn,
  done_up_to text[] CHECK (cardinality(done_up_to) = 2),
  CHECK (started_at IS NOT NULL OR (finished_at IS NULL AND sweep_lsn IS NULL AND stream_lsn IS NULL AND done_up_to IS NULL))
);
COMMENT ON COLUMN kernel.cdc_snapshots.name IS 'schema.table; kernel.outbox for the events';
COMMENT ON COLUMN kernel.cdc_snapshots.membership IS
  'the row of pg_publication_rel: another one means that the table has left and come back, and changes were missed';
COMMENT ON COLUMN kernel.cdc_snapshots.requested_at IS 'grows with each request, so that it also tells them apart';
COMMENT ON COLUMN kernel.cdc_snapshots.sweep_lsn IS 'all changes before it were committed before the table was read';
COMMENT ON COLUMN kernel.cdc_snapshots.stream_lsn IS
  'the stream had passed here before the table was read; NULL when records that are gone are not looked for';
COMMENT ON COLUMN kernel.cdc_snapshots.done_up_to IS 'key of the last row that Kafka has acknowledged';
GRANT SELECT, INSERT, UPDATE, DELETE ON kernel.cdc_snapshots TO kernel_cdc;
