-- $1 slug, $2 module_name, $3 namespace, $4 name, $5 resource_uid, $6 version, $7 active, $8 login_fingerprint, $9 permissions
INSERT INTO kernel.modules (slug, module_name, namespace, name, resource_uid, version, active, login_fingerprint, permissions)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (slug) DO UPDATE SET
  resource_uid = excluded.resource_uid, version = excluded.version, active = excluded.active,
  login_fingerprint = excluded.login_fingerprint, permissions = excluded.permissions, removed_at = NULL
