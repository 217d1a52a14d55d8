-- Accounts outlive the tenant $1 and no longer begin with it. At most $2; its members must still be there.
UPDATE auth.users SET last_tenant_id = NULL WHERE id = ANY (ARRAY(
  SELECT u.id FROM auth.members AS m JOIN auth.users AS u ON u.id = m.user_id
  WHERE m.tenant_id = $1 AND u.last_tenant_id = $1 LIMIT $2))
