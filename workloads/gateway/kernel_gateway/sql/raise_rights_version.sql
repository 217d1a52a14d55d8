-- $1: the tenant, which must be the transaction's. Locks the row until the end: changes of a tenant's rights come one by one.
UPDATE auth.rbac_versions SET version = version + 1 WHERE tenant_id = $1 RETURNING version
