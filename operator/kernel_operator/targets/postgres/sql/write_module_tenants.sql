-- Makes the tenants of the module $1 exactly $2, and tells how many came, went, and are not known here.
WITH wanted AS (
  SELECT u.tenant_id, t.id IS NOT NULL AS known
  FROM unnest($2::uuid[]) AS u (tenant_id)
  LEFT JOIN kernel.tenants AS t ON t.id = u.tenant_id AND t.status IN ('active', 'suspended')
),
gone AS (
  DELETE FROM kernel.module_tenants AS m
  WHERE m.slug = $1 AND NOT EXISTS (SELECT FROM wanted AS w WHERE w.tenant_id = m.tenant_id)
  RETURNING 1
),
come AS (
  INSERT INTO kernel.module_tenants (slug, tenant_id)
  SELECT $1, w.tenant_id FROM wanted AS w
  WHERE w.known AND NOT EXISTS (SELECT FROM kernel.module_tenants AS m WHERE m.slug = $1 AND m.tenant_id = w.tenant_id)
  RETURNING 1
)
SELECT (SELECT count(*) FROM come) AS come, (SELECT count(*) FROM gone) AS gone,
  (SELECT count(*) FROM wanted WHERE NOT known) AS unknown
