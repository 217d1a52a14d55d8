-- All that is really there of one module, and the template its tables are compared with, in one answer.
-- $1: slug, $2: the schema's and the login's name, $3: the publication of captured tables.
WITH relation AS (
  SELECT c.*, n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE (n.nspname = $2 AND c.relkind IN ('r', 'p')) OR (n.nspname = 'kernel' AND c.relname = 'model_template')
),
described AS (
  SELECT r.nspname, r.relname, jsonb_build_object(
    'owner', pg_get_userbyid(r.relowner),
    'row_security', r.relrowsecurity,
    'forced', r.relforcerowsecurity,
    'identity', r.relreplident,
    'may_hold_rows', pg_relation_size(r.oid) > 0,  -- the operator sees no row to count
    'grants', ARRAY(
      SELECT format('%s=%s%s', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
        privilege_type, CASE WHEN is_grantable THEN '*' END)
      FROM aclexplode(coalesce(r.relacl, acldefault('r', r.relowner)))
    ),
    'owner_grants', ARRAY(
      SELECT format('%s=%s', pg_get_userbyid(grantee), privilege_type) FROM aclexplode(acldefault('r', r.relowner))
    ),
    'column_grantees', ARRAY(
      SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END
      FROM pg_attribute, aclexplode(attacl) WHERE attrelid = r.oid AND attacl IS NOT NULL
    ),
    'columns', (
      SELECT coalesce(jsonb_object_agg(attname, jsonb_build_object(
        'type', format_type(atttypid, atttypmod), 'required', attnotnull, 'default', pg_get_expr(adbin, adrelid))), '{}')
      FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
      WHERE attrelid = r.oid AND attnum > 0 AND NOT attisdropped
    ),
    'keys', ARRAY(
      SELECT contype::text || ':' || (
        SELECT string_agg(attname, ',' ORDER BY position)
        FROM unnest(conkey) WITH ORDINALITY AS k (number, position)
        JOIN pg_attribute ON attrelid = conrelid AND attnum = number)
      FROM pg_constraint WHERE conrelid = r.oid AND contype IN ('p', 'u')
    ),
    'policies', (
      SELECT coalesce(jsonb_object_agg(polname, jsonb_build_object(
        'permissive', polpermissive, 'command', polcmd, 'roles', polroles::regrole[]::text[],
        'using', pg_get_expr(polqual, polrelid), 'check', pg_get_expr(polwithcheck, polrelid))), '{}')
      FROM pg_policy WHERE polrelid = r.oid
    ),
    'triggers', (
      SELECT coalesce(jsonb_object_agg(tgname, jsonb_build_object(
        'function', tgfoid::regprocedure::text, 'kind', tgtype, 'enabled', tgenabled,
        'condition', tgqual IS NOT NULL, 'columns', tgattr::text)), '{}')
      FROM pg_trigger WHERE tgrelid = r.oid AND NOT tgisinternal
    ),
    'published', (
      SELECT CASE WHEN prqual IS NULL AND prattrs IS NULL THEN 'whole' ELSE 'part' END
      FROM pg_publication_rel JOIN pg_publication AS p ON p.oid = prpubid WHERE prrelid = r.oid AND pubname = $3
    )
  ) AS description
  FROM relation AS r
)
SELECT jsonb_build_object(
  'module', (SELECT to_jsonb(m) FROM kernel.modules AS m WHERE slug = $1),
  'models', (
    SELECT coalesce(jsonb_object_agg(model, jsonb_build_object(
      'columns', columns, 'analytics', analytics, 'retention_days', retention_days)), '{}')
    FROM kernel.module_models WHERE slug = $1
  ),
  'rights', (
    SELECT coalesce(jsonb_object_agg(type, source), '{}') FROM kernel.event_rights WHERE login = $2
  ),
  'schema', (
    SELECT jsonb_build_object(
      'owner', pg_get_userbyid(nspowner),
      'grants', ARRAY(
        SELECT format('%s=%s%s', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
          privilege_type, CASE WHEN is_grantable THEN '*' END)
        FROM aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
      ),
      'owner_grants', ARRAY(
        SELECT format('%s=%s', pg_get_userbyid(grantee), privilege_type) FROM aclexplode(acldefault('n', nspowner))
      ))
    FROM pg_namespace WHERE nspname = $2
  ),
  'login', (
    SELECT jsonb_build_object(
      'attributes', jsonb_build_object(
        'LOGIN', rolcanlogin, 'INHERIT', rolinherit, 'CREATEROLE', rolcreaterole, 'SUPERUSER', rolsuper,
        'CREATEDB', rolcreatedb, 'REPLICATION', rolreplication, 'BYPASSRLS', rolbypassrls),
      'connection_limit', rolconnlimit,
      'expires', rolvaliduntil IS NOT NULL AND rolvaliduntil <> 'infinity',
      'settings', coalesce((
        SELECT setconfig FROM pg_db_role_setting WHERE setrole = r.oid AND setdatabase = 0), '{}'),
      'managed', pg_has_role(current_user, r.oid, 'MEMBER WITH ADMIN OPTION'),
      'memberships', ARRAY(
        SELECT jsonb_build_object('role', pg_get_userbyid(roleid), 'grantor', pg_get_userbyid(grantor),
          'plain', inherit_option AND NOT set_option AND NOT admin_option)
        FROM pg_auth_members WHERE member = r.oid),
      'members', ARRAY(
        SELECT jsonb_build_object('role', pg_get_userbyid(member), 'grantor', pg_get_userbyid(grantor))
        FROM pg_auth_members WHERE roleid = r.oid AND member <> current_user::regrole)
    )
    FROM pg_roles AS r WHERE rolname = $2
  ),
  'tables', (SELECT coalesce(jsonb_object_agg(relname, description), '{}') FROM described WHERE nspname = $2),
  'template', (SELECT description FROM described WHERE nspname = 'kernel')
)
