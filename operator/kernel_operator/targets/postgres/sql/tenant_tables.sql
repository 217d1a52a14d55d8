-- Every table of a module that has rows by tenant, and the statement that deletes a batch of one
-- tenant's ($1, at most $2). It names the tenant beside row-level security: a table whose policy was
-- damaged must not be emptied.
SELECT format('%I.%I', n.nspname, c.relname) AS name, format(
  'DELETE FROM %1$I.%2$I WHERE tenant_id = $1 AND ctid = ANY (ARRAY('
  'SELECT ctid FROM %1$I.%2$I WHERE tenant_id = $1 LIMIT $2))', n.nspname, c.relname) AS statement
FROM kernel.modules AS m
JOIN pg_namespace AS n ON n.nspname = 'module_' || m.slug
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.atttypid = 'uuid'::regtype AND NOT a.attisdropped
ORDER BY n.nspname, c.relname
