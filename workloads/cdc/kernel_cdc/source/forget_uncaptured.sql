-- Tables that are no longer captured have no row. $1: the publication.
DELETE FROM kernel.cdc_snapshots AS s
WHERE name <> 'kernel.outbox' AND NOT EXISTS (
  SELECT FROM pg_publication AS p
  JOIN pg_publication_rel AS r ON r.prpubid = p.oid
  JOIN pg_class AS c ON c.oid = r.prrelid
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE p.pubname = $1 AND n.nspname || '.' || c.relname = s.name)
RETURNING name
