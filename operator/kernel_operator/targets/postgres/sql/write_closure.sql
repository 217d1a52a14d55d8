-- Makes the ancestors of the tenants $1 exactly the pairs ($2 ancestor, $3 descendant, $4 depth).
WITH wanted AS (
  SELECT * FROM unnest($2::uuid[], $3::uuid[], $4::smallint[]) AS w (ancestor_id, descendant_id, depth)
),
gone AS (
  DELETE FROM kernel.tenant_closure AS c
  WHERE c.descendant_id = ANY($1::uuid[])
    AND NOT EXISTS (SELECT FROM wanted AS w WHERE w.ancestor_id = c.ancestor_id AND w.descendant_id = c.descendant_id)
)
INSERT INTO kernel.tenant_closure AS c (ancestor_id, descendant_id, depth)
SELECT ancestor_id, descendant_id, depth FROM wanted
ON CONFLICT (ancestor_id, descendant_id) DO UPDATE SET depth = excluded.depth WHERE c.depth <> excluded.depth
