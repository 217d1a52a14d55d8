-- $1 slug, $2 its migrator: whether the module's schema stands, what was applied, whether a login was left.
SELECT
  EXISTS (SELECT FROM kernel.modules WHERE slug = $1) AND to_regnamespace('module_' || $1) IS NOT NULL AS installed,
  (SELECT coalesce(jsonb_object_agg(name, checksum), '{}') FROM kernel.module_migrations WHERE slug = $1) AS applied,
  to_regrole($2) IS NOT NULL AS login_left
