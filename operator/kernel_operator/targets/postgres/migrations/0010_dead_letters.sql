-- Dead letters, kept for those who look at them and send them again.
CREATE TABLE kernel.dlq_records (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  tenant_id uuid,
  event_id uuid,
  event_type text CHECK (length(event_type) <= 300),
  original_topic text NOT NULL CHECK (original_topic ~ '^platform\.[a-z][a-z0-9_]*\.events$'),
  partition integer NOT NULL CHECK (partition >= 0),
  "offset" bigint NOT NULL CHECK ("offset" >= 0),
  consumer_group text NOT NULL CHECK (length(consumer_group) BETWEEN 1 AND 300),
  key bytea,
  envelope bytea,
  cut boolean NOT NULL,
  headers jsonb NOT NULL CHECK (jsonb_typeof(headers) = 'object'),
  error text NOT NULL,
  attempts integer NOT NULL CHECK (attempts >= 0),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'retried', 'resolved')),
  first_failed_at timestamptz NOT NULL,
  retried_at timestamptz,
  resolved_at timestamptz,
  CHECK ((status = 'pending') = (coalesce(resolved_at, retried_at) IS NULL)),
  -- Which delivery it was. A topic that was deleted and made again counts its offsets anew, hence the event.
  CONSTRAINT dlq_records_delivery UNIQUE NULLS NOT DISTINCT (original_topic, partition, "offset", consumer_group, event_id)
);
CREATE INDEX dlq_records_tenant ON kernel.dlq_records (tenant_id, id);
CREATE INDEX dlq_records_settled ON kernel.dlq_records ((coalesce(resolved_at, retried_at))) WHERE status <> 'pending';
COMMENT ON COLUMN kernel.dlq_records.tenant_id IS 'NULL where the message names no tenant';
COMMENT ON COLUMN kernel.dlq_records.envelope IS 'the value of the message as it came, whatever it is';
COMMENT ON COLUMN kernel.dlq_records.cut IS 'the end of the value is missing: it was too long';
COMMENT ON COLUMN kernel.dlq_records.headers IS 'of the original message: they go with it when it is sent again';

-- A transaction that names no tenant sees the letters that name none, which belong to the platform's owner.
ALTER TABLE kernel.dlq_records ENABLE ROW LEVEL SECURITY;
ALTER TABLE kernel.dlq_records FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON kernel.dlq_records
  USING (tenant_id IS NOT DISTINCT FROM (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid))
  WITH CHECK (tenant_id IS NOT DISTINCT FROM (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
-- The operator, whose function the sweep is, sees what is over long enough.
CREATE POLICY sweep_finds ON kernel.dlq_records FOR SELECT TO kernel_operator
  USING (status <> 'pending' AND coalesce(resolved_at, retried_at) < now() - interval '30 days');
CREATE POLICY sweep_deletes ON kernel.dlq_records FOR DELETE TO kernel_operator
  USING (status <> 'pending' AND coalesce(resolved_at, retried_at) < now() - interval '30 days');

GRANT USAGE ON SCHEMA kernel TO kernel_gateway;
-- What a letter says never changes.
GRANT SELECT, INSERT, UPDATE (status, retried_at, resolved_at) ON kernel.dlq_records TO kernel_gateway;

-- Forgets letters that were retried or resolved 30 days ago, at most `batch`; returns how many.
CREATE FUNCTION kernel.sweep_dead_letters(batch integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH swept AS (
    DELETE FROM kernel.dlq_records WHERE id = ANY (ARRAY(
      SELECT id FROM kernel.dlq_records
      WHERE status <> 'pending' AND coalesce(resolved_at, retried_at) < now() - interval '30 days'
      LIMIT batch))
    RETURNING 1
  )
  SELECT count(*) FROM swept
$$;
REVOKE ALL ON FUNCTION kernel.sweep_dead_letters(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kernel.sweep_dead_letters(integer) TO kernel_gateway;

-- What the active modules of the transaction's tenant declare that they publish, and under which name.
CREATE FUNCTION kernel.declared_events() RETURNS TABLE (slug text, source text, types text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT m.slug, min(r.source), array_agg(r.type ORDER BY r.type)
  FROM kernel.module_tenants AS mt
  JOIN kernel.modules AS m ON m.slug = mt.slug AND m.active AND m.removed_at IS NULL
  JOIN kernel.event_rights AS r ON r.login = 'module_' || m.slug
  WHERE mt.tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid
  GROUP BY m.slug ORDER BY m.slug
$$;
REVOKE ALL ON FUNCTION kernel.declared_events() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kernel.declared_events() TO kernel_gateway;

-- As before, and Admin may all of the event API.
CREATE OR REPLACE FUNCTION auth.effective_rights(member uuid)
RETURNS TABLE (version bigint, blocked boolean, active_modules text[], permissions text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH tenant AS (
    SELECT t.id, t.blocked FROM kernel.tenants AS t
    WHERE t.id = nullif(current_setting('app.tenant_id', true), '')::uuid
  ),
  active AS (
    SELECT m.slug, m.permissions FROM tenant
    JOIN kernel.module_tenants AS mt ON mt.tenant_id = tenant.id
    JOIN kernel.modules AS m ON m.slug = mt.slug AND m.active AND m.removed_at IS NULL
  ),
  held AS (
    SELECT r.id, r.permissions FROM auth.members AS m
    JOIN auth.member_roles AS mr ON mr.tenant_id = m.tenant_id AND mr.user_id = m.user_id
    JOIN auth.roles AS r ON r.tenant_id = mr.tenant_id AND r.id = mr.role_id
    WHERE m.user_id = member AND m.status = 'active' AND m.tenant_id = (SELECT id FROM tenant)
  ),
  permission (name) AS (
    SELECT unnest(permissions) FROM held
    UNION SELECT '*' FROM held WHERE id = '00000000-0000-7000-8000-000000000001'
    UNION
    SELECT p FROM held CROSS JOIN unnest(ARRAY[
      'tenants.*', 'modules.*', 'users.*', 'roles.*', 'audit.*', 'billing.*', 'settings.*', 'events.*']) AS p
    WHERE id = '00000000-0000-7000-8000-000000000002'
    UNION
    SELECT active.slug || '.*' FROM held CROSS JOIN active WHERE id = '00000000-0000-7000-8000-000000000002'
    UNION
    SELECT p FROM held CROSS JOIN active CROSS JOIN unnest(active.permissions) AS p
    WHERE id = '00000000-0000-7000-8000-000000000003' AND p LIKE '%.%.read'
  )
  SELECT v.version, tenant.blocked,
    ARRAY(SELECT slug FROM active ORDER BY slug), ARRAY(SELECT name FROM permission ORDER BY name)
  FROM tenant JOIN auth.rbac_versions AS v ON v.tenant_id = tenant.id
$$;
