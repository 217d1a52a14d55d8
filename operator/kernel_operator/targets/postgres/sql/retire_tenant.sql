-- The resource is gone, the data stays. Returns nothing when there is nothing to do.
UPDATE kernel.tenants SET status = 'retired', blocked = true
WHERE id = $1 AND status IN ('active', 'suspended')
RETURNING id, name, display_name, tier, parent_id, old.blocked AS was_blocked
