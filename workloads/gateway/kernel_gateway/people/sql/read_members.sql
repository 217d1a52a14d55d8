-- $1: one user, or NULL for all; $2: after which one; $3: how many. Of somebody who has not accepted yet nothing is
-- told but the address that was invited: the account may be one that the tenant knows nothing of. Accounts are looked up
-- one by one, so that a page costs the same in a tenant of any size.
SELECT m.user_id, u.email, m.status, m.invited_by, m.created_at, m.updated_at,
  CASE WHEN m.status = 'invited' THEN '' ELSE u.display_name END AS display_name,
  m.status <> 'invited' AND u.email_verified_at IS NOT NULL AS email_verified,
  m.status <> 'invited' AND u.mfa_enabled_at IS NOT NULL AS mfa_enabled,
  r.role_ids, r.role_names
FROM (
  SELECT * FROM auth.members
  WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR user_id > $2)
  ORDER BY user_id LIMIT $3
) AS m
CROSS JOIN LATERAL kernel_cross.find_user(NULL, m.user_id) AS u
CROSS JOIN LATERAL (
  SELECT coalesce(array_agg(r.id ORDER BY r.id), '{}') AS role_ids, coalesce(array_agg(r.name ORDER BY r.id), '{}') AS role_names
  FROM auth.member_roles AS mr JOIN auth.roles AS r ON r.tenant_id = mr.tenant_id AND r.id = mr.role_id
  WHERE mr.tenant_id = m.tenant_id AND mr.user_id = m.user_id
) AS r
ORDER BY m.user_id
