-- The functions that cross tenants: the whole list. Run by the administrator, as the last part of bootstrap.sql, in the
-- database `platform`. They belong to kernel_cross, which nobody can become; each is SECURITY DEFINER with a pinned
-- search_path. Their bodies are not looked at before they are called, so that they can be made before the operator has
-- made the tables.
--
-- The schema holds nothing else, and is made anew each time, in one transaction: so a new version may change what a
-- function returns, none of an old version stays behind, and callers find either the former functions or these.
BEGIN;
SET LOCAL check_function_bodies = off;
SET LOCAL client_min_messages = warning;
DROP SCHEMA IF EXISTS kernel_cross CASCADE;
CREATE SCHEMA kernel_cross AUTHORIZATION kernel_cross;
GRANT USAGE ON SCHEMA kernel_cross TO kernel_gateway;
ALTER DEFAULT PRIVILEGES FOR ROLE kernel_cross REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
SET LOCAL ROLE kernel_cross;

-- Users ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION kernel_cross.find_user(by_email text, by_id uuid)
RETURNS TABLE (
  id uuid, email text, display_name text, password_hash text, email_verified_at timestamptz, platform_owner boolean,
  last_tenant_id uuid, mfa_secret bytea, mfa_enabled_at timestamptz, recovery_codes text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT id, email, display_name, password_hash, email_verified_at, platform_owner, last_tenant_id, mfa_secret,
    mfa_enabled_at, recovery_codes
  FROM auth.users WHERE email = lower(by_email) OR id = by_id
$$;
COMMENT ON FUNCTION kernel_cross.find_user IS 'one of the two is given, the other NULL';

-- NULL when the address is taken.
CREATE FUNCTION kernel_cross.create_user(new_email text, new_display_name text, new_password_hash text)
RETURNS uuid LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO auth.users (email, display_name, password_hash) VALUES (lower(new_email), new_display_name, new_password_hash)
  ON CONFLICT (email) DO NOTHING RETURNING id
$$;

-- Sets a password and ends every session of the user, in all tenants. A refresh that is under way while a token is
-- waited for leaves another behind, which is not seen before the next statement: hence again, until none is found.
CREATE FUNCTION kernel_cross.set_password(of_user uuid, new_hash text)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE auth.users SET password_hash = new_hash WHERE id = of_user;
  LOOP
    UPDATE auth.refresh_tokens SET revoked_at = clock_timestamp(), answer = NULL WHERE user_id = of_user AND revoked_at IS NULL;
    EXIT WHEN NOT FOUND;
  END LOOP;
END
$$;

-- Whether the password is still the one that was checked. To be asked in the transaction that writes the session: until
-- it ends nobody sets another, so no session of an old password is left behind.
CREATE FUNCTION kernel_cross.is_password(of_user uuid, hash text)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM auth.users WHERE id = of_user AND password_hash = hash FOR SHARE;
  RETURN FOUND;
END
$$;

-- A stronger hash of the same password: no session ends.
CREATE FUNCTION kernel_cross.rehash_password(of_user uuid, old_hash text, new_hash text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE auth.users SET password_hash = new_hash WHERE id = of_user AND password_hash = old_hash
$$;

CREATE FUNCTION kernel_cross.verify_email(of_user uuid)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE auth.users SET email_verified_at = coalesce(email_verified_at, clock_timestamp()) WHERE id = of_user
$$;

-- For an account that has none: somebody else's choice is not overwritten.
CREATE FUNCTION kernel_cross.set_first_display_name(of_user uuid, new_name text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE auth.users SET display_name = new_name WHERE id = of_user AND display_name = ''
$$;

CREATE FUNCTION kernel_cross.set_last_tenant(of_user uuid, tenant uuid)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE auth.users SET last_tenant_id = tenant WHERE id = of_user AND last_tenant_id IS DISTINCT FROM tenant
$$;

-- For the command line's `owner create`: the user must exist.
CREATE FUNCTION kernel_cross.make_platform_owner(of_user uuid)
RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE auth.users SET platform_owner = true WHERE id = of_user RETURNING true
$$;

-- Second factor ---------------------------------------------------------------------------------------------------

-- A new secret and new recovery codes; not in force until a code has shown that the user has it. False when one is in force.
CREATE FUNCTION kernel_cross.start_mfa(of_user uuid, secret bytea, code_hashes text[])
RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH done AS (
    UPDATE auth.users SET mfa_secret = secret, recovery_codes = code_hashes, mfa_last_step = 0
    WHERE id = of_user AND mfa_enabled_at IS NULL RETURNING true)
  SELECT EXISTS (SELECT FROM done)
$$;

-- Uses up a time step; enables the factor where it was not yet. False when the step, or a later one, was used before.
CREATE FUNCTION kernel_cross.use_mfa_step(of_user uuid, step bigint)
RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH done AS (
    UPDATE auth.users SET mfa_last_step = step, mfa_enabled_at = coalesce(mfa_enabled_at, clock_timestamp())
    WHERE id = of_user AND mfa_secret IS NOT NULL AND mfa_last_step < step RETURNING true)
  SELECT EXISTS (SELECT FROM done)
$$;

-- False when the code was used meanwhile.
CREATE FUNCTION kernel_cross.use_recovery_code(of_user uuid, code_hash text)
RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH done AS (
    UPDATE auth.users SET recovery_codes = array_remove(recovery_codes, code_hash)
    WHERE id = of_user AND mfa_enabled_at IS NOT NULL AND code_hash = ANY (recovery_codes) RETURNING true)
  SELECT EXISTS (SELECT FROM done)
$$;

CREATE FUNCTION kernel_cross.disable_mfa(of_user uuid)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE auth.users SET mfa_secret = NULL, mfa_enabled_at = NULL, recovery_codes = '{}' WHERE id = of_user
$$;

-- Tokens that work once ---------------------------------------------------------------------------------------------

CREATE FUNCTION kernel_cross.put_one_time_token(
  hash bytea, token_kind text, for_user uuid, for_tenant uuid, lifetime interval)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO auth.one_time_tokens (token_hash, kind, user_id, tenant_id, expires_at)
  VALUES (hash, token_kind, for_user, for_tenant, clock_timestamp() + lifetime)
$$;

-- The same, unless the user was given `most` of that kind in `within`: false. Exact, however many ask at once.
CREATE FUNCTION kernel_cross.put_limited_one_time_token(
  hash bytea, token_kind text, for_user uuid, for_tenant uuid, lifetime interval, most integer, within interval)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM auth.users WHERE id = for_user FOR NO KEY UPDATE;
  IF kernel_cross.count_one_time_tokens(for_user, token_kind, within) >= most THEN
    RETURN false;
  END IF;
  PERFORM kernel_cross.put_one_time_token(hash, token_kind, for_user, for_tenant, lifetime);
  RETURN true;
END
$$;

-- Uses it up. `state`: taken, used, expired; no row when there is none.
CREATE FUNCTION kernel_cross.take_one_time_token(hash bytea, token_kind text)
RETURNS TABLE (state text, user_id uuid, tenant_id uuid)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH found AS (
    SELECT t.* FROM auth.one_time_tokens AS t WHERE t.token_hash = hash AND t.kind = token_kind FOR UPDATE
  ),
  taken AS (
    UPDATE auth.one_time_tokens AS t SET used_at = clock_timestamp() FROM found
    WHERE t.token_hash = found.token_hash AND found.used_at IS NULL AND found.expires_at > clock_timestamp()
    RETURNING t.token_hash
  )
  SELECT CASE WHEN EXISTS (SELECT FROM taken) THEN 'taken' WHEN found.used_at IS NOT NULL THEN 'used' ELSE 'expired' END,
    found.user_id, found.tenant_id
  FROM found
$$;

-- The same without using it up.
CREATE FUNCTION kernel_cross.see_one_time_token(hash bytea, token_kind text)
RETURNS TABLE (user_id uuid, tenant_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.user_id, t.tenant_id FROM auth.one_time_tokens AS t
  WHERE t.token_hash = hash AND t.kind = token_kind AND t.used_at IS NULL AND t.expires_at > clock_timestamp()
$$;

CREATE FUNCTION kernel_cross.count_one_time_tokens(for_user uuid, token_kind text, within interval)
RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) FROM auth.one_time_tokens
  WHERE user_id = for_user AND kind = token_kind AND created_at > clock_timestamp() - within
$$;

-- Failed logins ---------------------------------------------------------------------------------------------------

-- Counts one more failure.
CREATE FUNCTION kernel_cross.login_failed(of_account bytea, from_address inet)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO auth.login_failures (account, address) VALUES (of_account, from_address)
$$;

-- How many there were in `within`, and in how many seconds the oldest of them no longer counts.
CREATE FUNCTION kernel_cross.login_failures(of_account bytea, from_address inet, within interval)
RETURNS TABLE (failures bigint, seconds_left double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*), coalesce(extract(epoch FROM min(failed_at) + within - clock_timestamp()), 0)
  FROM auth.login_failures
  WHERE account = of_account AND address = from_address AND failed_at > clock_timestamp() - within
$$;

CREATE FUNCTION kernel_cross.login_succeeded(of_account bytea, from_address inet)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM auth.login_failures WHERE account = of_account AND address = from_address
$$;

-- Tenants of a user, sessions -------------------------------------------------------------------------------------

CREATE FUNCTION kernel_cross.user_tenants(of_user uuid)
RETURNS TABLE (tenant_id uuid, name text, display_name text, tier text, blocked boolean, member_status text, roles text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.id, t.name, t.display_name, t.tier, t.blocked, m.status, ARRAY(
    SELECT r.name FROM auth.member_roles AS mr JOIN auth.roles AS r ON r.tenant_id = mr.tenant_id AND r.id = mr.role_id
    WHERE mr.tenant_id = m.tenant_id AND mr.user_id = m.user_id ORDER BY r.name)
  FROM auth.members AS m JOIN kernel.tenants AS t ON t.id = m.tenant_id
  WHERE m.user_id = of_user AND t.status IN ('active', 'suspended')
  ORDER BY t.name
$$;

-- Whose session a refresh token is: its row is then read under that tenant.
CREATE FUNCTION kernel_cross.refresh_token_tenant(hash bytea)
RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT tenant_id FROM auth.refresh_tokens WHERE token_hash = hash
$$;

-- The people of the transaction's tenant: the only way to see an address or a name of somebody else.
CREATE FUNCTION kernel_cross.member_users()
RETURNS TABLE (user_id uuid, email text, display_name text, email_verified_at timestamptz, mfa_enabled boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT u.id, u.email, u.display_name, u.email_verified_at, u.mfa_enabled_at IS NOT NULL
  FROM auth.members AS m JOIN auth.users AS u ON u.id = m.user_id
  WHERE m.tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid
$$;

-- Clears answers whose window is over, and forgets what has long been useless. At most `batch` rows of each.
CREATE FUNCTION kernel_cross.sweep_sessions(grace interval, batch integer)
RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH cleared AS (
    UPDATE auth.refresh_tokens SET answer = NULL WHERE id = ANY (ARRAY(
      SELECT id FROM auth.refresh_tokens WHERE answer IS NOT NULL AND used_at < clock_timestamp() - grace
      LIMIT batch FOR UPDATE SKIP LOCKED))
    RETURNING 1
  ),
  expired AS (
    -- With an answer it is cleared first: one statement changes a row once.
    DELETE FROM auth.refresh_tokens WHERE id = ANY (ARRAY(
      SELECT id FROM auth.refresh_tokens WHERE expires_at < clock_timestamp() - interval '1 day' AND answer IS NULL
      LIMIT batch FOR UPDATE SKIP LOCKED))
    RETURNING 1
  ),
  tokens AS (
    DELETE FROM auth.one_time_tokens WHERE token_hash = ANY (ARRAY(
      SELECT token_hash FROM auth.one_time_tokens WHERE expires_at < clock_timestamp() - interval '7 days'
      LIMIT batch FOR UPDATE SKIP LOCKED))
    RETURNING 1
  ),
  failures AS (
    DELETE FROM auth.login_failures WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM auth.login_failures WHERE failed_at < clock_timestamp() - interval '1 day'
      LIMIT batch FOR UPDATE SKIP LOCKED))
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM cleared) + (SELECT count(*) FROM expired) + (SELECT count(*) FROM tokens) + (SELECT count(*) FROM failures)
$$;

-- Registration ----------------------------------------------------------------------------------------------------

-- Writes the row of a tenant that registers itself, below `parent` (a name), with the user as its owner. NULL when the
-- name was ever used; an error when there is no such parent. The resource is applied afterwards and takes the row over.
CREATE FUNCTION kernel_cross.register_tenant(
  new_id uuid, new_name text, new_display_name text, parent text, of_user uuid, limits jsonb)
RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  above kernel.tenants;
BEGIN
  SELECT * INTO above FROM kernel.tenants WHERE name = parent AND status IN ('active', 'suspended') FOR SHARE;
  IF NOT FOUND OR above.tier = 'client' THEN
    RAISE EXCEPTION 'no tenant % that can have clients', parent USING ERRCODE = 'foreign_key_violation';
  END IF;
  IF NOT EXISTS (SELECT FROM auth.users WHERE id = of_user) THEN
    RAISE EXCEPTION 'no user %', of_user USING ERRCODE = 'foreign_key_violation';
  END IF;
  INSERT INTO kernel.tenants (id, name, display_name, tier, parent_id, owner_email, status, suspended, blocked, limits, registered_at)
  SELECT new_id, new_name, new_display_name, 'client', above.id, u.email, 'active', false, above.blocked, register_tenant.limits,
    clock_timestamp()
  FROM auth.users AS u WHERE u.id = of_user
  ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  INSERT INTO kernel.tenant_closure (ancestor_id, descendant_id, depth)
  SELECT new_id, new_id, 0
  UNION ALL SELECT ancestor_id, new_id, depth + 1 FROM kernel.tenant_closure WHERE descendant_id = above.id;
  INSERT INTO auth.members (tenant_id, user_id, status) VALUES (new_id, of_user, 'active');
  INSERT INTO auth.member_roles (tenant_id, user_id, role_id)
  VALUES (new_id, of_user, '00000000-0000-7000-8000-000000000001');
  RETURN new_id;
END
$$;

-- Registered, and never taken over by a resource: the sweep applies them. A retired or deleted one is not brought back,
-- and one below a tenant that is gone can't be applied.
CREATE FUNCTION kernel_cross.unbound_registrations()
RETURNS TABLE (id uuid, name text, display_name text, owner_email text, parent text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.id, t.name, t.display_name, t.owner_email, p.name
  FROM kernel.tenants AS t JOIN kernel.tenants AS p ON p.id = t.parent_id
  WHERE t.registered_at IS NOT NULL AND t.resource_uid IS NULL
    AND t.status IN ('active', 'suspended') AND p.status IN ('active', 'suspended')
  ORDER BY t.registered_at LIMIT 500
$$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA kernel_cross TO kernel_gateway;
COMMIT;
