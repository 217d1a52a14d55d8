-- $1: a user. The transaction is the tenant's. No row when there is no such tenant.
SELECT r.version, r.blocked, r.active_modules, r.permissions,
  EXISTS (SELECT FROM auth.members AS m WHERE m.user_id = $1 AND m.status = 'active') AS member
FROM auth.effective_rights($1) AS r
