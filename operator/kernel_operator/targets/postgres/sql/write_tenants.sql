-- $1: an array of rows. The caller holds the table's lock and knows that each of them differs.
INSERT INTO kernel.tenants
  (id, name, display_name, tier, parent_id, owner_email, status, suspended, blocked, limits, resource_uid)
SELECT id, name, display_name, tier, parent_id, owner_email, status, suspended, blocked, limits, resource_uid
FROM jsonb_populate_recordset(NULL::kernel.tenants, $1::jsonb)
ON CONFLICT (id) DO UPDATE SET
  display_name = excluded.display_name, tier = excluded.tier, parent_id = excluded.parent_id,
  owner_email = excluded.owner_email, status = excluded.status, suspended = excluded.suspended,
  blocked = excluded.blocked, limits = excluded.limits, resource_uid = excluded.resource_uid
