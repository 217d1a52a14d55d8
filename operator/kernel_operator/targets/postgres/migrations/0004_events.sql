-- Events on their way out. A change writes its event here in its own transaction; the row is published
-- from the write-ahead log. One partition a day, so that old days can be dropped whole, and a default
-- one, so that an operator that is away never stops a write.
CREATE TABLE kernel.outbox (
  id uuid NOT NULL,
  topic text NOT NULL CHECK (topic ~ '^platform\.[a-z][a-z0-9_]*\.events$'),
  key text NOT NULL CHECK (length(key) BETWEEN 1 AND 400),
  type text NOT NULL CHECK (length(type) <= 200),
  tenant_id uuid NOT NULL,
  envelope jsonb NOT NULL CHECK (octet_length(envelope::text) <= 2000000),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (created_at, id),
  -- What is published is the envelope: it must not claim another tenant than the policy has checked.
  CONSTRAINT outbox_envelope_agrees CHECK (
    coalesce(envelope->>'id' = id::text AND envelope->>'type' = type AND envelope->>'tenantId' = tenant_id::text, false)
  )
) PARTITION BY RANGE (created_at);
CREATE TABLE kernel.outbox_default PARTITION OF kernel.outbox DEFAULT;

-- Whoever publishes may insert for the tenant of its transaction, and nothing else. Forced: the owner
-- may insert for any tenant, and reads no event here either.
ALTER TABLE kernel.outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE kernel.outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY publish_own_tenant ON kernel.outbox FOR INSERT TO kernel_publisher
  WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
CREATE POLICY publish_any ON kernel.outbox FOR INSERT TO kernel_operator WITH CHECK (true);

GRANT USAGE ON SCHEMA kernel TO kernel_publisher, kernel_cdc;
-- Not created_at: a row dated far ahead would never be dropped.
GRANT INSERT (id, topic, key, type, tenant_id, envelope) ON kernel.outbox TO kernel_publisher;
GRANT SELECT ON kernel.outbox TO kernel_cdc;

-- Makes the partitions of today and of `days_ahead` days after it, and of every day (UTC) that has rows
-- in the default partition, whose rows move over. Returns the names of those it made. A partition is made apart
-- and attached, which locks no writer out; it joins the publication by being attached, after its rows
-- have moved, so nothing is published twice.
CREATE FUNCTION kernel.outbox_make_partitions(days_ahead integer) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog SET timezone = 'UTC' AS $$
DECLARE
  day date;
  partition text;
BEGIN
  LOCK TABLE kernel.outbox IN SHARE UPDATE EXCLUSIVE MODE;
  FOR day IN
    SELECT d FROM (
      SELECT current_date + n FROM generate_series(0, days_ahead) AS n
      UNION
      SELECT DISTINCT created_at::date FROM kernel.outbox_default
    ) AS wanted (d)
    WHERE to_regclass('kernel.outbox_' || to_char(d, 'YYYYMMDD')) IS NULL
    ORDER BY d
  LOOP
    partition := 'outbox_' || to_char(day, 'YYYYMMDD');
    EXECUTE format('CREATE TABLE kernel.%I (LIKE kernel.outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
    EXECUTE format('ALTER TABLE kernel.%I ENABLE ROW LEVEL SECURITY', partition);
    -- Attaching needs this lock anyway; taken now, no row can arrive between the move and the attaching.
    LOCK TABLE kernel.outbox_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format(
      'WITH moved AS (DELETE FROM kernel.outbox_default WHERE created_at >= %L AND created_at < %L RETURNING *)
       INSERT INTO kernel.%I SELECT * FROM moved', day, day + 1, partition);
    EXECUTE format(
      'ALTER TABLE kernel.outbox ATTACH PARTITION kernel.%I FOR VALUES FROM (%L) TO (%L)', partition, day, day + 1);
    RETURN NEXT partition;
  END LOOP;
END
$$;

ALTER TABLE kernel.outbox_default ENABLE ROW LEVEL SECURITY;

-- Events whose effect is in this database are remembered for ever, in the effect's own transaction.
CREATE TABLE kernel.processed_event_ids (
  consumer_group text NOT NULL CHECK (length(consumer_group) BETWEEN 1 AND 200),
  event_id uuid NOT NULL,
  event_type text NOT NULL,
  processed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (consumer_group, event_id)
);
