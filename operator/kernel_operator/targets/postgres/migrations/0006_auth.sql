-- Users, their membership of tenants, roles, and what a login leaves behind.
--
-- A user is one person in all tenants: that table, and what belongs to a person rather than to a membership, has no
-- tenant, and nobody reads it but through the functions of cross.sql, which kernel_cross owns. Everything else is a
-- tenant's, under row-level security. Only the gateway works here.
CREATE SCHEMA auth;

CREATE TABLE auth.users (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  email text NOT NULL UNIQUE CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
  display_name text NOT NULL DEFAULT '' CHECK (length(display_name) <= 200),
  password_hash text CHECK (password_hash LIKE '$argon2id$%'),
  email_verified_at timestamptz,
  platform_owner boolean NOT NULL DEFAULT false,
  last_tenant_id uuid,
  mfa_secret bytea,
  mfa_enabled_at timestamptz CHECK (mfa_enabled_at IS NULL OR mfa_secret IS NOT NULL),
  mfa_last_step bigint NOT NULL DEFAULT 0,
  recovery_codes text[] NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN auth.users.password_hash IS 'Argon2id; NULL until one was chosen';
COMMENT ON COLUMN auth.users.platform_owner IS 'set by the command line alone';
COMMENT ON COLUMN auth.users.mfa_secret IS 'encrypted by the gateway under a key derived from the master key';
COMMENT ON COLUMN auth.users.mfa_last_step IS 'the last time step that was used: none is taken twice';
COMMENT ON COLUMN auth.users.recovery_codes IS 'Argon2id hashes of those not used yet';

-- Links in mails, invitations, and the choice of a tenant between password and tokens.
CREATE TABLE auth.one_time_tokens (
  token_hash bytea PRIMARY KEY CHECK (length(token_hash) = 32),
  kind text NOT NULL CHECK (kind IN ('verify_email', 'reset_password', 'invite', 'select_tenant')),
  user_id uuid NOT NULL REFERENCES auth.users (id),
  tenant_id uuid REFERENCES kernel.tenants (id),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  used_at timestamptz
);
CREATE INDEX one_time_tokens_user ON auth.one_time_tokens (user_id, kind, created_at);
CREATE INDEX one_time_tokens_expiry ON auth.one_time_tokens (expires_at);
CREATE INDEX one_time_tokens_tenant ON auth.one_time_tokens (tenant_id) WHERE tenant_id IS NOT NULL;

CREATE TABLE auth.login_failures (
  account bytea NOT NULL CHECK (length(account) = 32),
  address inet NOT NULL,
  failed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX login_failures_account ON auth.login_failures (account, address, failed_at);
CREATE INDEX login_failures_age ON auth.login_failures (failed_at);
COMMENT ON COLUMN auth.login_failures.account IS 'SHA-256 of the address that was tried, known or not';

CREATE TABLE auth.members (
  tenant_id uuid NOT NULL REFERENCES kernel.tenants (id),
  user_id uuid NOT NULL REFERENCES auth.users (id),
  status text NOT NULL CHECK (status IN ('invited', 'active', 'blocked')),
  invited_by uuid REFERENCES auth.users (id),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX members_user ON auth.members (user_id);

-- The built-in roles have the same ids in every tenant; what they may is computed (auth.effective_rights).
CREATE TABLE auth.roles (
  tenant_id uuid NOT NULL REFERENCES kernel.tenants (id),
  id uuid NOT NULL DEFAULT uuidv7(),
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
  description text NOT NULL DEFAULT '' CHECK (length(description) <= 500),
  permissions text[] NOT NULL DEFAULT '{}' CHECK (
    -- '*' is the owner's alone and is never written; '#' begins the stamp that lies beside remembered permissions.
    cardinality(permissions) <= 500 AND array_position(permissions, NULL) IS NULL AND array_position(permissions, '*') IS NULL
    AND strpos(array_to_string(permissions, ' '), '#') = 0),
  built_in boolean NOT NULL DEFAULT false,
  created_by uuid REFERENCES auth.users (id),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, id),
  UNIQUE (tenant_id, name)
);

CREATE TABLE auth.member_roles (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  role_id uuid NOT NULL,
  PRIMARY KEY (tenant_id, user_id, role_id),
  FOREIGN KEY (tenant_id, user_id) REFERENCES auth.members (tenant_id, user_id) ON DELETE CASCADE,
  FOREIGN KEY (tenant_id, role_id) REFERENCES auth.roles (tenant_id, id)
);
CREATE INDEX member_roles_role ON auth.member_roles (tenant_id, role_id);
-- Exactly one owner: never two here; that it is never taken away is the gateway's to hold.
CREATE UNIQUE INDEX one_owner ON auth.member_roles (tenant_id) WHERE role_id = '00000000-0000-7000-8000-000000000001';

-- Grows with every change of rights in the tenant; what is remembered of rights elsewhere carries it.
CREATE TABLE auth.rbac_versions (
  tenant_id uuid PRIMARY KEY REFERENCES kernel.tenants (id),
  version bigint NOT NULL DEFAULT 1
);

CREATE TABLE auth.refresh_tokens (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  family_id uuid NOT NULL,
  token_hash bytea NOT NULL UNIQUE CHECK (length(token_hash) = 32),
  issued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  used_at timestamptz,
  replaced_by uuid,
  revoked_at timestamptz,
  answer bytea CHECK (length(answer) <= 20000),
  FOREIGN KEY (tenant_id, user_id) REFERENCES auth.members (tenant_id, user_id) ON DELETE CASCADE
);
CREATE INDEX refresh_tokens_user ON auth.refresh_tokens (user_id);
CREATE INDEX refresh_tokens_tenant ON auth.refresh_tokens (tenant_id, user_id);
CREATE INDEX refresh_tokens_family ON auth.refresh_tokens (family_id);
CREATE INDEX refresh_tokens_expiry ON auth.refresh_tokens (expires_at);
CREATE INDEX refresh_tokens_answer ON auth.refresh_tokens (used_at) WHERE answer IS NOT NULL;
COMMENT ON COLUMN auth.refresh_tokens.answer IS
  'the pair that the first use was given, encrypted under a key derived from the presented token; gone after the grace window';

-- One policy for all of them. Forced: the operator owns the tables and sees a tenant only by naming it.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['members', 'roles', 'member_roles', 'rbac_versions', 'refresh_tokens'] LOOP
    EXECUTE format('ALTER TABLE auth.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE auth.%I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format(
      $policy$CREATE POLICY tenant_isolation ON auth.%I
        USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid))
        WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid))$policy$, name);
    EXECUTE format(
      $default$ALTER TABLE auth.%I ALTER COLUMN tenant_id SET DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid$default$,
      name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['users', 'members', 'roles'] LOOP
    EXECUTE format(
      'CREATE TRIGGER touch_updated_at BEFORE INSERT OR UPDATE ON auth.%I FOR EACH ROW EXECUTE FUNCTION kernel.touch_updated_at()', name);
  END LOOP;
END
$$;

-- Nobody changes a built-in role or takes it away. A trigger, not a policy: a policy would also hide the row from
-- those who lock it.
CREATE FUNCTION auth.refuse_built_in() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'the role % is built in', OLD.name USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER refuse_built_in BEFORE UPDATE OR DELETE ON auth.roles
  FOR EACH ROW WHEN (OLD.built_in) EXECUTE FUNCTION auth.refuse_built_in();

-- Every tenant has the built-in roles, whoever writes its row: the operator, or a registration. They and the version
-- outlive the tenant's data, so that one that comes back under its name finds them.
CREATE POLICY operator_adds ON auth.roles FOR INSERT TO kernel_operator WITH CHECK (built_in);
CREATE POLICY operator_adds ON auth.rbac_versions FOR INSERT TO kernel_operator WITH CHECK (version = 1);
CREATE FUNCTION auth.add_built_in_roles() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO auth.roles (tenant_id, id, name, description, built_in)
  SELECT added.id, role.id::uuid, role.name, role.description, true
  FROM added CROSS JOIN (VALUES
    ('00000000-0000-7000-8000-000000000001', 'Owner', 'May everything; there is exactly one'),
    ('00000000-0000-7000-8000-000000000002', 'Admin', 'May everything but system.*'),
    ('00000000-0000-7000-8000-000000000003', 'Member', 'Reads what the active modules hold')) AS role (id, name, description);
  INSERT INTO auth.rbac_versions (tenant_id) SELECT id FROM added;
  RETURN NULL;
END
$$;
CREATE TRIGGER add_built_in_roles AFTER INSERT ON kernel.tenants REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION auth.add_built_in_roles();
INSERT INTO auth.roles (tenant_id, id, name, description, built_in)
SELECT t.id, role.id::uuid, role.name, role.description, true
FROM kernel.tenants AS t CROSS JOIN (VALUES
  ('00000000-0000-7000-8000-000000000001', 'Owner', 'May everything; there is exactly one'),
  ('00000000-0000-7000-8000-000000000002', 'Admin', 'May everything but system.*'),
  ('00000000-0000-7000-8000-000000000003', 'Member', 'Reads what the active modules hold')) AS role (id, name, description);
INSERT INTO auth.rbac_versions (tenant_id) SELECT id FROM kernel.tenants;

-- A tenant that is gone gets nobody and nothing any more. The lock makes its retirement wait for what is under way, so
-- that what is deleted afterwards is all there is.
CREATE FUNCTION auth.require_living_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM kernel.tenants WHERE id = NEW.tenant_id AND status IN ('active', 'suspended') FOR SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no tenant % (any more)', NEW.tenant_id USING ERRCODE = 'foreign_key_violation';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER require_living_tenant BEFORE INSERT ON auth.members
  FOR EACH ROW EXECUTE FUNCTION auth.require_living_tenant();
CREATE TRIGGER require_living_tenant BEFORE INSERT ON auth.roles
  FOR EACH ROW WHEN (NOT NEW.built_in) EXECUTE FUNCTION auth.require_living_tenant();
CREATE TRIGGER require_living_tenant BEFORE INSERT ON auth.one_time_tokens
  FOR EACH ROW WHEN (NEW.tenant_id IS NOT NULL) EXECUTE FUNCTION auth.require_living_tenant();

-- The operator sees who owns a tenant, without naming it, and gives one that has no owner the first.
CREATE POLICY operator_sees_owner ON auth.member_roles FOR SELECT TO kernel_operator
  USING (role_id = '00000000-0000-7000-8000-000000000001');

-- `given`: an array of {tenant, email, hash}. Makes the account of that address the owner of a tenant that has none;
-- with `hash`, a new account with that password. Tells what was done. Nothing is done, and the tenant is not in the
-- answer, where it has an owner or is gone, where an account was to be made and is there already, or the other way round:
-- what the caller knew was old.
CREATE FUNCTION auth.make_owners(given jsonb) RETURNS TABLE (tenant_id uuid, user_id uuid, account_made boolean, old_roles text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  item record;
  account uuid;
  before text[];
BEGIN
  -- Accounts to be made first: other tenants of the same call may name them.
  FOR item IN
    SELECT * FROM jsonb_to_recordset(given) AS g (tenant uuid, email text, hash text) ORDER BY hash IS NULL, tenant
  LOOP
    PERFORM set_config('app.tenant_id', item.tenant::text, true);
    PERFORM FROM auth.rbac_versions WHERE tenant_id = item.tenant FOR UPDATE;
    CONTINUE WHEN EXISTS (SELECT FROM auth.member_roles WHERE role_id = '00000000-0000-7000-8000-000000000001' AND tenant_id = item.tenant)
      OR NOT EXISTS (SELECT FROM kernel.tenants WHERE id = item.tenant AND status IN ('active', 'suspended'));
    IF item.hash IS NULL THEN
      account := (SELECT id FROM auth.users WHERE email = lower(item.email) AND email_verified_at IS NOT NULL);
    ELSE
      -- Who writes the Tenant vouches for the address. An account that nobody has proven may be a stranger's who
      -- registered first: it becomes the person's whom the Tenant names, under the password of the Secret.
      INSERT INTO auth.users AS u (email, password_hash, email_verified_at)
      VALUES (lower(item.email), item.hash, clock_timestamp())
      ON CONFLICT (email) DO UPDATE SET password_hash = excluded.password_hash, email_verified_at = clock_timestamp(),
        mfa_secret = NULL, mfa_enabled_at = NULL, mfa_last_step = 0, recovery_codes = '{}'
      WHERE u.email_verified_at IS NULL
      RETURNING u.id INTO account;
      DELETE FROM auth.one_time_tokens WHERE user_id = account;
    END IF;
    CONTINUE WHEN account IS NULL;
    before := ARRAY(
      SELECT r.name FROM auth.member_roles AS mr JOIN auth.roles AS r ON r.tenant_id = mr.tenant_id AND r.id = mr.role_id
      WHERE mr.tenant_id = item.tenant AND mr.user_id = account ORDER BY r.name);
    INSERT INTO auth.members AS m (tenant_id, user_id, status) VALUES (item.tenant, account, 'active')
    ON CONFLICT (tenant_id, user_id) DO UPDATE SET status = 'active' WHERE m.status <> 'active';
    INSERT INTO auth.member_roles (tenant_id, user_id, role_id)
    VALUES (item.tenant, account, '00000000-0000-7000-8000-000000000001');
    UPDATE auth.rbac_versions SET version = version + 1 WHERE tenant_id = item.tenant;
    RETURN QUERY SELECT item.tenant, account, item.hash IS NOT NULL, before;
  END LOOP;
END
$$;

ALTER TABLE kernel.modules ADD COLUMN permissions text[] NOT NULL DEFAULT '{}';
ALTER TABLE kernel.tenants ADD COLUMN registered_at timestamptz;
COMMENT ON COLUMN kernel.tenants.registered_at IS 'it registered itself; until resource_uid is set its resource is still to be applied';

-- What `member` may in the transaction's tenant, and what else a decision needs when nothing else can answer. No row
-- when there is no such tenant; a user who is no active member has no permission.
CREATE FUNCTION auth.effective_rights(member uuid)
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
    SELECT p FROM held CROSS JOIN unnest(ARRAY['tenants.*', 'modules.*', 'users.*', 'roles.*', 'audit.*', 'billing.*', 'settings.*']) AS p
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

-- The permissions that a role of the transaction's tenant may hold besides the system's: those of its active modules.
CREATE FUNCTION auth.known_permissions() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT p FROM kernel.module_tenants AS mt
  JOIN kernel.modules AS m ON m.slug = mt.slug AND m.active AND m.removed_at IS NULL
  CROSS JOIN unnest(m.permissions) AS p
  WHERE mt.tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid
  ORDER BY p
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA auth FROM PUBLIC;

GRANT USAGE ON SCHEMA auth TO kernel_gateway, kernel_cross;
GRANT USAGE ON SCHEMA kernel TO kernel_cross;
GRANT EXECUTE ON FUNCTION auth.effective_rights(uuid), auth.known_permissions() TO kernel_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON auth.members, auth.roles, auth.member_roles TO kernel_gateway;
GRANT SELECT, INSERT, UPDATE ON auth.refresh_tokens TO kernel_gateway;
GRANT SELECT, UPDATE ON auth.rbac_versions TO kernel_gateway;

GRANT SELECT, INSERT, UPDATE ON auth.users TO kernel_cross;
GRANT SELECT, INSERT, UPDATE, DELETE ON auth.one_time_tokens, auth.login_failures TO kernel_cross;
GRANT SELECT, INSERT ON auth.members, auth.member_roles TO kernel_cross;
GRANT SELECT ON auth.roles TO kernel_cross;
GRANT SELECT, UPDATE, DELETE ON auth.refresh_tokens TO kernel_cross;
GRANT SELECT, INSERT ON kernel.tenants, kernel.tenant_closure TO kernel_cross;
-- Only a row that it may change can it lock against others' changes.
GRANT UPDATE (registered_at) ON kernel.tenants TO kernel_cross;
