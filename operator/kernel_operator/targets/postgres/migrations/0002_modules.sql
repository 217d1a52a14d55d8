-- Modules, the tenants they are active for, and their tables.
CREATE TABLE kernel.modules (
  slug text PRIMARY KEY CHECK (slug ~ '^[a-z0-9_]{1,56}$'),
  module_name text NOT NULL UNIQUE,
  namespace text NOT NULL,
  name text NOT NULL,
  resource_uid text NOT NULL,
  version text NOT NULL,
  active boolean NOT NULL,
  login_fingerprint text,
  removed_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN kernel.modules.login_fingerprint IS
  'SHA-256 of the (random) password that the login was given last, so that it is set only when it differs';
COMMENT ON COLUMN kernel.modules.removed_at IS 'the resource is gone, the tables stay';

CREATE TABLE kernel.module_tenants (
  slug text NOT NULL REFERENCES kernel.modules (slug) ON DELETE CASCADE,
  tenant_id uuid NOT NULL REFERENCES kernel.tenants (id),
  PRIMARY KEY (slug, tenant_id)
);
CREATE INDEX module_tenants_tenant ON kernel.module_tenants (tenant_id);

-- What was declared, so that a model that vanished is noticed, and readers know the columns.
CREATE TABLE kernel.module_models (
  slug text NOT NULL REFERENCES kernel.modules (slug) ON DELETE CASCADE,
  model text NOT NULL,
  columns jsonb NOT NULL CHECK (jsonb_typeof(columns) = 'array'),
  analytics boolean NOT NULL,
  retention_days integer CHECK (retention_days > 0),
  PRIMARY KEY (slug, model)
);
