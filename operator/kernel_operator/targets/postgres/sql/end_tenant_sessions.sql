-- Ends at most $2 sessions of the tenant $1, in a transaction that names it.
UPDATE auth.refresh_tokens SET revoked_at = clock_timestamp(), answer = NULL
WHERE tenant_id = $1 AND id = ANY (ARRAY(
  SELECT id FROM auth.refresh_tokens WHERE tenant_id = $1 AND revoked_at IS NULL LIMIT $2))
