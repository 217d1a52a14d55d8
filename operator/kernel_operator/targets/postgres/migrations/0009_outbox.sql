-- What each module's login may publish: the types that its resource declares, under its module's name. The operator
-- keeps it; the policy's function alone reads it. The checks hold whoever writes: a module publishes in the domain of
-- its own slug, and a domain of the kernel is a kernel module's or nobody's.
CREATE TABLE kernel.event_rights (
  login text NOT NULL,
  type text NOT NULL CHECK (type ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){2}$' AND length(type) <= 200),
  source text NOT NULL CHECK (length(source) BETWEEN 1 AND 100),
  topic text NOT NULL GENERATED ALWAYS AS ('platform.' || split_part(type, '.', 1) || '.events') STORED,
  PRIMARY KEY (login, type),
  CONSTRAINT own_domain CHECK (login = 'module_' || split_part(type, '.', 1)),
  CONSTRAINT no_kernel_domain CHECK (
    split_part(type, '.', 1) <> ALL (ARRAY['auth', 'module', 'data', 'audit'])
    AND (split_part(type, '.', 1) <> ALL (ARRAY['money', 'billing', 'files', 'notify']) OR starts_with(source, '@kernel/'))
  )
);

-- True, or the reason why not as an error: a policy that is just false would name neither the type nor the way out.
-- It judges by session_user, because inside it current_user is its owner; nobody can SET ROLE to a publisher.
CREATE FUNCTION kernel.may_publish(event_type text, event_topic text, event_source text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (
    SELECT FROM kernel.event_rights AS r
    WHERE (r.login, r.type, r.source, r.topic) = (session_user::text, event_type, event_source, event_topic)
  ) THEN
    RETURN true;
  END IF;
  -- The gateway: its own events, and on behalf of modules what they declare. The kernel's modules speak for themselves.
  IF session_user = 'kernel_gateway' AND (
    (event_topic, event_source) = ('platform.auth.events', 'kernel-gateway') AND starts_with(event_type, 'auth.')
    OR NOT starts_with(event_source, '@kernel/') AND EXISTS (
      SELECT FROM kernel.event_rights AS r
      WHERE (r.login, r.type, r.source, r.topic)
        = ('module_' || split_part(event_type, '.', 1), event_type, event_source, event_topic)
    )
  ) THEN
    RETURN true;
  END IF;
  RAISE EXCEPTION '% may not publish % from source % on %', session_user, event_type, event_source, event_topic
  USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'event_not_declared', DETAIL = event_type,
    HINT = 'a module publishes what spec.events.publishes of its KernelModule declares, with its moduleName as the source';
END
$$;
REVOKE ALL ON FUNCTION kernel.may_publish(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kernel.may_publish(text, text, text) TO kernel_publisher;

DROP POLICY publish_own_tenant ON kernel.outbox;
CREATE POLICY publish_own ON kernel.outbox FOR INSERT TO kernel_publisher
  WITH CHECK (
    tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)
    AND kernel.may_publish(type, topic, envelope->>'source')
  );
-- The operator tells of any tenant, and of tenants, modules and first owners alone.
DROP POLICY publish_any ON kernel.outbox;
CREATE POLICY publish_of_operator ON kernel.outbox FOR INSERT TO kernel_operator
  WITH CHECK (
    envelope->>'source' = 'kernel-operator'
    AND (
      topic = 'platform.auth.events' AND (starts_with(type, 'auth.tenant.') OR type IN ('auth.user.created', 'auth.role.changed'))
      OR topic = 'platform.module.events' AND starts_with(type, 'module.')
    )
  );

-- Days that were detached from the outbox and wait until the slot has passed them. The source of change data capture
-- reads them while they are there, when it has lost its slot.
CREATE TABLE kernel.outbox_days (
  name text PRIMARY KEY CHECK (name ~ '^outbox_[0-9]{8}$'),
  detached_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lsn pg_lsn NOT NULL
);
COMMENT ON COLUMN kernel.outbox_days.lsn IS 'the log ended here when nobody could write to the day any more';
