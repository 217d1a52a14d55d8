-- The data is gone: what is personal goes too, the id and the name stay known.
UPDATE kernel.tenants SET status = 'deleted', blocked = true, display_name = '', owner_email = '', limits = '{}',
  parent_id = NULL, resource_uid = NULL, registered_at = NULL, updated_at = clock_timestamp()
WHERE id = $1 AND status = 'retired'
RETURNING id, name, tier
