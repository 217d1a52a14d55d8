-- Below the tenant $1, which is retired, registrations that no resource has taken over: nobody else blocks them.
UPDATE kernel.tenants SET blocked = true
WHERE resource_uid IS NULL AND status IN ('active', 'suspended') AND NOT blocked
  AND id IN (SELECT descendant_id FROM kernel.tenant_closure WHERE ancestor_id = $1 AND depth > 0)
