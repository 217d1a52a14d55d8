-- What stands in the way of the operator's work, one row a problem, said as what to do.
-- $1: the functions that cross tenants, as cross.sql makes them: an array of {name, arguments, body}.
WITH wanted (role, attributes) AS (
  VALUES
    ('kernel_operator', '{"LOGIN": true, "CREATEROLE": true, "SUPERUSER": false, "CREATEDB": false, "REPLICATION": false, "BYPASSRLS": false}'::jsonb),
    ('kernel_cdc', '{"LOGIN": true, "REPLICATION": true, "BYPASSRLS": true, "SUPERUSER": false, "CREATEROLE": false, "CREATEDB": false}'),
    ('kernel_gateway', '{"LOGIN": true, "BYPASSRLS": false, "SUPERUSER": false, "CREATEROLE": false, "CREATEDB": false, "REPLICATION": false}'),
    ('kernel_cross', '{"LOGIN": false, "BYPASSRLS": true, "SUPERUSER": false, "CREATEROLE": false, "CREATEDB": false, "REPLICATION": false}'),
    ('kernel_app', '{"LOGIN": false, "BYPASSRLS": false, "SUPERUSER": false, "CREATEROLE": false, "CREATEDB": false, "REPLICATION": false}'),
    ('kernel_publisher', '{"LOGIN": false, "BYPASSRLS": false, "SUPERUSER": false, "CREATEROLE": false, "CREATEDB": false, "REPLICATION": false}')
),
found AS (
  SELECT oid, rolname, jsonb_build_object(
    'LOGIN', rolcanlogin, 'CREATEROLE', rolcreaterole, 'SUPERUSER', rolsuper,
    'CREATEDB', rolcreatedb, 'REPLICATION', rolreplication, 'BYPASSRLS', rolbypassrls) AS attributes
  FROM pg_roles
),
given AS (
  SELECT * FROM jsonb_to_recordset($1) AS f (name text, arguments text, body text)
),
crossing AS (
  SELECT *, format('kernel_cross.%s(%s)', proname, pg_get_function_identity_arguments(oid)) AS signature
  FROM pg_proc WHERE pronamespace = to_regnamespace('kernel_cross')
)
SELECT format('the role %s is missing', wanted.role) AS problem
FROM wanted LEFT JOIN found ON rolname = role WHERE oid IS NULL
UNION
SELECT format('ALTER ROLE %s %s', role, string_agg(CASE WHEN value::boolean THEN '' ELSE 'NO' END || key, ' ' ORDER BY key))
FROM wanted JOIN found ON rolname = role CROSS JOIN LATERAL jsonb_each_text(wanted.attributes)
WHERE value <> found.attributes->>key
GROUP BY role
UNION
SELECT format('the operator must log in as kernel_operator, not as %s', current_user) WHERE current_user <> 'kernel_operator'
UNION
SELECT format('REVOKE %I FROM kernel_operator', other.rolname)
FROM pg_roles AS other JOIN pg_roles AS me ON me.rolname = 'kernel_operator'
WHERE other.oid <> me.oid AND NOT me.rolsuper AND pg_has_role(me.oid, other.oid, 'MEMBER')
  AND (other.rolsuper OR other.rolbypassrls OR other.rolreplication OR other.rolname LIKE 'pg\_%')
UNION
SELECT format('REVOKE %I FROM %I', role.rolname, member.rolname)
FROM pg_auth_members AS m
JOIN pg_roles AS role ON role.oid = m.roleid
JOIN pg_roles AS member ON member.oid = m.member
WHERE role.rolname IN ('kernel_cdc', 'kernel_cross', 'kernel_operator', 'kernel_gateway')
  OR member.rolname IN ('kernel_cdc', 'kernel_cross', 'kernel_app', 'kernel_publisher')
  OR member.rolname = 'kernel_gateway'
    AND NOT (role.rolname IN ('kernel_app', 'kernel_publisher') AND m.inherit_option AND NOT m.set_option AND NOT m.admin_option)
UNION
SELECT format('GRANT %s TO kernel_gateway WITH INHERIT TRUE, SET FALSE', name)
FROM unnest(ARRAY['kernel_app', 'kernel_publisher']) AS name
WHERE to_regrole(name) IS NOT NULL AND to_regrole('kernel_gateway') IS NOT NULL
  AND NOT pg_has_role('kernel_gateway', name, 'USAGE')
UNION
SELECT format('GRANT %s TO kernel_operator WITH ADMIN TRUE, INHERIT FALSE, SET FALSE', name)
FROM unnest(ARRAY['kernel_app', 'kernel_publisher']) AS name
WHERE to_regrole(name) IS NOT NULL AND to_regrole('kernel_operator') IS NOT NULL
  AND NOT pg_has_role('kernel_operator', name, 'MEMBER WITH ADMIN OPTION')
UNION
SELECT format('GRANT %s ON DATABASE %I TO kernel_operator', privilege, current_database())
FROM unnest(ARRAY['CONNECT', 'CREATE']) AS privilege
WHERE to_regrole('kernel_operator') IS NOT NULL
  AND NOT has_database_privilege('kernel_operator', current_database(), privilege)
UNION
SELECT format('REVOKE %s ON DATABASE %I FROM PUBLIC', privilege_type, current_database())
FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
WHERE datname = current_database() AND grantee = 0
UNION
SELECT 'the server must be PostgreSQL 18 or later' WHERE current_setting('server_version_num')::integer < 180000
UNION
SELECT 'wal_level must be logical' WHERE current_setting('wal_level') <> 'logical'
UNION
SELECT 'the table kernel.schema_migrations is missing, or is not the operator''s'
WHERE NOT EXISTS (
  SELECT FROM pg_class WHERE oid = to_regclass('kernel.schema_migrations') AND relowner = to_regrole('kernel_operator')
)
UNION
SELECT 'the schema kernel_cross is missing' WHERE to_regnamespace('kernel_cross') IS NULL
UNION
SELECT format('the schema kernel_cross must belong to kernel_cross, with USAGE for kernel_gateway alone, not %s', nspacl)
FROM pg_namespace
WHERE nspname = 'kernel_cross' AND (nspowner <> to_regrole('kernel_cross') OR ARRAY(
  SELECT format('%s=%s', grantee::regrole, privilege_type) FROM aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
  WHERE grantee <> nspowner) <> ARRAY['kernel_gateway=USAGE'])
UNION
SELECT format('functions are missing or are another version''s: %s', string_agg(name, ', ' ORDER BY name))
FROM given
WHERE to_regnamespace('kernel_cross') IS NOT NULL AND NOT EXISTS (
  SELECT FROM crossing
  WHERE (proname, pg_get_function_identity_arguments(oid), prosrc) = (given.name, given.arguments, given.body))
HAVING count(*) > 0
UNION
SELECT format('the schema kernel_cross must not hold %s', signature)
FROM crossing WHERE NOT EXISTS (
  SELECT FROM given WHERE (name, arguments) = (proname::text, pg_get_function_identity_arguments(oid)))
UNION
SELECT format('the schema kernel_cross must not hold %s', pg_describe_object(classid, objid, 0))
FROM pg_depend
WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace('kernel_cross') AND classid <> 'pg_proc'::regclass
UNION
SELECT format('%s must be SECURITY DEFINER, belong to kernel_cross and pin its search_path', signature)
FROM crossing
WHERE NOT prosecdef OR proowner <> to_regrole('kernel_cross')
  OR proconfig IS DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp']
UNION
SELECT format('only kernel_gateway may call %s', signature)
FROM crossing
WHERE ARRAY(
  SELECT format('%s%s', grantee::regrole, CASE WHEN is_grantable THEN '*' END)
  FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee <> proowner) <> ARRAY['kernel_gateway']
