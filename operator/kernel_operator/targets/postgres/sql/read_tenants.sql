-- The rows of tenants, and of those they stand below. $1: ids, $2: names.
SELECT t.id, t.name, t.display_name, t.tier, t.parent_id, t.owner_email, t.status, t.suspended, t.blocked, t.limits, t.resource_uid,
  ARRAY(
    SELECT c.ancestor_id FROM kernel.tenant_closure AS c WHERE c.descendant_id = t.id ORDER BY c.depth
  ) AS line
FROM kernel.tenants AS t
WHERE t.id = ANY($1::uuid[]) OR t.name = ANY($2::text[])
