-- Of the tenants $1 those that have no owner, and whether the account that is to be it is there and proven to be the
-- address's.
SELECT t.id, EXISTS (
  SELECT FROM auth.users AS u WHERE u.email = lower(t.owner_email) AND u.email_verified_at IS NOT NULL) AS known
FROM kernel.tenants AS t
WHERE t.id = ANY ($1::uuid[]) AND t.status IN ('active', 'suspended') AND NOT EXISTS (
  SELECT FROM auth.member_roles AS r WHERE r.tenant_id = t.id AND r.role_id = '00000000-0000-7000-8000-000000000001')
