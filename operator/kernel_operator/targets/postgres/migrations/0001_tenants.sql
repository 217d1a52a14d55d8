-- Tenants. A row is never deleted: a name that was used once is known for ever.
CREATE TABLE kernel.tenants (
  id uuid PRIMARY KEY,
  name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 253),
  display_name text NOT NULL,
  tier text NOT NULL CHECK (tier IN ('owner', 'partner', 'client')),
  parent_id uuid REFERENCES kernel.tenants (id) CHECK (parent_id <> id),
  owner_email text NOT NULL,
  status text NOT NULL CHECK (status IN ('active', 'suspended', 'retired', 'deleted')),
  suspended boolean NOT NULL,
  blocked boolean NOT NULL,
  limits jsonb NOT NULL CHECK (jsonb_typeof(limits) = 'object'),
  resource_uid text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX tenants_parent ON kernel.tenants (parent_id);
COMMENT ON COLUMN kernel.tenants.status IS
  'active, suspended (its own switch), retired (the resource is gone, the data stays), deleted (the data is gone)';
COMMENT ON COLUMN kernel.tenants.blocked IS 'it or one of its ancestors is suspended, or it is retired';
COMMENT ON COLUMN kernel.tenants.resource_uid IS 'the Kubernetes object it belongs to';

-- Who is below whom, itself included at depth 0, so that no question about ancestry is recursive.
CREATE TABLE kernel.tenant_closure (
  ancestor_id uuid NOT NULL REFERENCES kernel.tenants (id),
  descendant_id uuid NOT NULL REFERENCES kernel.tenants (id),
  depth smallint NOT NULL CHECK (depth BETWEEN 0 AND 2),
  PRIMARY KEY (ancestor_id, descendant_id),
  CHECK ((depth = 0) = (ancestor_id = descendant_id))
);
CREATE INDEX tenant_closure_descendant ON kernel.tenant_closure (descendant_id);
