-- The outbox's days, apart from the default partition. One that is detached and not noted was detached by hand.
WITH days AS (
  SELECT c.relname::text AS name, i.inhrelid IS NOT NULL AS attached
  FROM pg_class AS c LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid AND i.inhparent = 'kernel.outbox'::regclass
  WHERE c.relnamespace = 'kernel'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^outbox_[0-9]{8}$'
)
SELECT
  clock_timestamp() AS now,
  ARRAY(SELECT name FROM days WHERE attached ORDER BY name) AS attached,
  ARRAY(SELECT name FROM days WHERE NOT attached ORDER BY name) AS detached,
  ARRAY(SELECT name FROM days WHERE NOT attached AND name NOT IN (SELECT name FROM kernel.outbox_days)) AS unnoted
