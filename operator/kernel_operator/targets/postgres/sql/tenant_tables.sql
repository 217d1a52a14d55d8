-- Every table that has rows by tenant, and the statement that deletes a batch of one tenant's ($1, at most $2). It names the
-- tenant beside row-level security: a table whose policy was damaged must not be emptied. Of `auth` the built-in roles
-- and the version of rights stay, for a tenant that comes back under the name. What names another goes before it.
SELECT name, format(
  'DELETE FROM %1$s WHERE tenant_id = $1 AND ctid = ANY (ARRAY(SELECT ctid FROM %1$s WHERE tenant_id = $1%2$s LIMIT $2))',
  name, condition) AS statement
FROM (
  SELECT 0 AS position, format('%I.%I', n.nspname, c.relname) AS name, '' AS condition
  FROM kernel.modules AS m
  JOIN pg_namespace AS n ON n.nspname = 'module_' || m.slug
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.atttypid = 'uuid'::regtype AND NOT a.attisdropped
  UNION ALL VALUES
    (1, 'auth.one_time_tokens', ''), (2, 'auth.refresh_tokens', ''), (3, 'auth.member_roles', ''),
    (4, 'auth.members', ''), (5, 'auth.roles', ' AND NOT built_in'),
    (6, 'kernel.dlq_records', '')
) AS held (position, name, condition)
ORDER BY position, name
