-- SQL migrations of modules: what was applied, and the functions that make each of them safe.
CREATE TABLE kernel.module_migrations (
  slug text NOT NULL REFERENCES kernel.modules (slug) ON DELETE CASCADE,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 253),
  checksum text NOT NULL CHECK (checksum ~ '^[0-9a-f]{64}$'),
  version text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (slug, name)
);

-- One row a module that ever had migrations. Whoever runs them holds a lock on the row; an advisory
-- lock would do worse, because anyone who is logged in may hold one of any number. The row outlives
-- the module, so that a login that was left behind is found whatever happened.
CREATE TABLE kernel.module_migrators (
  slug text PRIMARY KEY,
  login text NOT NULL UNIQUE,
  run uuid NOT NULL
);
COMMENT ON COLUMN kernel.module_migrators.run IS 'whose login it is: a run closes only its own';

-- A file is one transaction of the module's migrator, a login that may nothing but make things in its
-- module's schema. What needs the operator's rights happens in that same transaction, in the two
-- functions start_file and finish_file: they belong to the operator, take the module from the login and
-- not from the caller, and read nothing that the caller could have put in their way (search_path is
-- pinned). So a file, the protection of its tables and the record of it become visible together or not
-- at all, and no other session ever sees a table between its making and its protection.
CREATE SCHEMA kernel_migrations;

-- Makes every table of `module` that no model declares as the class "private" demands, its sequences
-- too; returns what it did. Also run without a migration, against drift.
CREATE FUNCTION kernel_migrations.protect(module text) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  role text := 'module_' || module;
  template CONSTANT oid := 'kernel.model_template'::regclass;
  active boolean := EXISTS (SELECT FROM kernel.modules AS m WHERE m.slug = module AND m.active AND m.removed_at IS NULL);
  wanted text[];
  wanted_policies jsonb;
  what record;
  item record;
BEGIN
  IF to_regrole(role) IS NULL THEN
    RETURN;
  END IF;
  wanted_policies := (
    SELECT jsonb_object_agg(polname, jsonb_build_array(polpermissive, polcmd, polroles::text,
      pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)))
    FROM pg_policy WHERE polrelid = template);
  FOR what IN
    SELECT c.oid, c.relkind, c.relname, format('%I.%I', n.nspname, c.relname) AS name, c.relrowsecurity, c.relforcerowsecurity,
      a.attnum IS NOT NULL AS isolated, a.atthasdef AS has_default, c.relacl, c.relowner,
      EXISTS (SELECT FROM pg_attribute AS u WHERE u.attrelid = c.oid AND u.attname = 'updated_at' AND NOT u.attisdropped) AS stamped
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
      AND a.atttypid = 'uuid'::regtype
    WHERE n.nspname = role AND c.relkind IN ('r', 'S') AND c.relowner = current_user::regrole
      AND NOT EXISTS (SELECT FROM kernel.module_models AS m WHERE m.slug = module AND m.model = c.relname)
    ORDER BY c.relname
  LOOP
    IF what.relkind = 'r' THEN
      FOR item IN
        SELECT p.pubname FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
        WHERE r.prrelid = what.oid AND p.pubowner = current_user::regrole
      LOOP
        EXECUTE format('ALTER PUBLICATION %I DROP TABLE %s', item.pubname, what.name);
        RETURN NEXT format('took table %s out of %s', what.name, item.pubname);
      END LOOP;
      IF NOT what.relrowsecurity OR NOT what.relforcerowsecurity THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', what.name);
        RETURN NEXT format('enabled row-level security on table %s', what.name);
      END IF;
      IF what.isolated AND wanted_policies IS DISTINCT FROM (
        SELECT jsonb_object_agg(polname, jsonb_build_array(polpermissive, polcmd, polroles::text,
          pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)))
        FROM pg_policy WHERE polrelid = what.oid)
      THEN
        FOR item IN SELECT polname FROM pg_policy WHERE polrelid = what.oid LOOP
          EXECUTE format('DROP POLICY %I ON %s', item.polname, what.name);
        END LOOP;
        FOR item IN
          SELECT polname, pg_get_expr(polqual, polrelid) AS seen, pg_get_expr(polwithcheck, polrelid) AS written
          FROM pg_policy WHERE polrelid = template
        LOOP
          EXECUTE format('CREATE POLICY %I ON %s USING (%s) WITH CHECK (%s)', item.polname, what.name, item.seen, item.written);
        END LOOP;
        RETURN NEXT format('made policy tenant_isolation of table %s', what.name);
      END IF;
      IF what.isolated AND NOT what.has_default THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN tenant_id SET DEFAULT %s', what.name, (
          SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
          WHERE adrelid = template AND attname = 'tenant_id'));
      END IF;
      FOR item IN
        SELECT w.tgname, t.oid AS there, w.tgname = 'touch_updated_at' AND NOT what.stamped AS needless,
          (t.tgfoid, t.tgtype, t.tgenabled, t.tgattr::text, t.tgqual IS NULL)
            IS NOT DISTINCT FROM (w.tgfoid, w.tgtype, w.tgenabled, w.tgattr::text, true) AS same
        FROM pg_trigger AS w LEFT JOIN pg_trigger AS t ON t.tgrelid = what.oid AND t.tgname = w.tgname
        WHERE w.tgrelid = template AND NOT w.tgisinternal
      LOOP
        CONTINUE WHEN item.same OR item.needless;
        IF item.there IS NOT NULL THEN
          EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, what.name);
        END IF;
        EXECUTE format(CASE item.tgname
          WHEN 'refuse_truncate' THEN
            'CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION kernel.refuse_truncate()'
          WHEN 'touch_updated_at' THEN
            'CREATE TRIGGER touch_updated_at BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION kernel.touch_updated_at()'
          END, what.name);
        RETURN NEXT format('made trigger %s of table %s', item.tgname, what.name);
      END LOOP;
    END IF;
    wanted := CASE
      WHEN NOT active OR (what.relkind = 'r' AND NOT what.isolated) THEN '{}'
      WHEN what.relkind = 'S' THEN ARRAY[role || '=USAGE']
      ELSE ARRAY[role || '=DELETE', role || '=INSERT', role || '=SELECT', role || '=UPDATE']
    END;
    -- The owner's own rights are part of the comparison: without them it could not repair anything.
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = what.oid AND attacl IS NOT NULL) OR ARRAY(
      SELECT format('%s=%s%s', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END, privilege_type,
        CASE WHEN is_grantable THEN '*' END)
      FROM aclexplode(coalesce(what.relacl, acldefault(CASE what.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", what.relowner)))
      ORDER BY 1
    ) IS DISTINCT FROM ARRAY(
      SELECT format('%s=%s', pg_get_userbyid(grantee), privilege_type)
      FROM aclexplode(acldefault(CASE what.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", what.relowner))
      UNION SELECT unnest(wanted) ORDER BY 1
    ) THEN
      FOR item IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS name
        FROM (
          SELECT grantee FROM aclexplode(what.relacl)
          UNION SELECT grantee FROM pg_attribute, aclexplode(attacl) WHERE attrelid = what.oid AND attacl IS NOT NULL
        ) AS g
      LOOP
        EXECUTE format('REVOKE ALL ON TABLE %s FROM %s CASCADE', what.name, item.name);
      END LOOP;
      EXECUTE format('GRANT ALL ON TABLE %s TO %I', what.name, current_user);
      IF wanted <> '{}' AND what.relkind = 'S' THEN
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %I', what.name, role);
      ELSIF wanted <> '{}' THEN
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE %s TO %I', what.name, role);
      END IF;
      RETURN NEXT format('put right the rights on %s', what.name);
    END IF;
  END LOOP;
END
$$;

-- What is wrong in the schema of `module` after its `migrator` has been there, one row a thing. Every
-- kind of object that the migrator could have made anywhere shows as its property, so no list of
-- kinds has to be complete.
CREATE FUNCTION kernel_migrations.findings(module text, migrator text) RETURNS TABLE (reason text, message text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  WITH space AS (SELECT to_regnamespace('module_' || module)::oid AS oid),
  relation AS (
    SELECT c.*, EXISTS (SELECT FROM kernel.module_models AS m WHERE m.slug = module AND m.model = c.relname) AS declared
    FROM pg_class AS c JOIN space ON c.relnamespace = space.oid
  ),
  private AS (SELECT * FROM relation WHERE relkind = 'r' AND NOT declared),
  -- Materialized: to print an expression takes a lock on its table, and two modules that lock each other's would wait for ever.
  policy AS MATERIALIZED (SELECT * FROM pg_policy WHERE polrelid IN (SELECT oid FROM relation))
  SELECT 'TenantColumnMissing', format('table %s: it has no column tenant_id uuid NOT NULL; add it to CREATE TABLE', relname)
  FROM private WHERE NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = private.oid AND attname = 'tenant_id' AND atttypid = 'uuid'::regtype
      AND attnotnull AND attgenerated = '' AND NOT attisdropped)
  UNION ALL
  SELECT 'CatalogueFinding', format('table %s: the column updated_at must be timestamptz', relname)
  FROM private JOIN pg_attribute ON attrelid = private.oid AND attname = 'updated_at' AND NOT attisdropped
  WHERE atttypid <> 'timestamptz'::regtype OR attgenerated <> ''
  UNION ALL
  SELECT 'CatalogueFinding', format('%s belongs to %s', pg_describe_object(d.classid, d.objid, d.objsubid), migrator)
  FROM pg_shdepend AS d
  WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = to_regrole(migrator) AND d.deptype = 'o'
    AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  UNION ALL
  SELECT 'CatalogueFinding', format('%s was granted to or by %s', pg_describe_object(d.classid, d.objid, d.objsubid), migrator)
  FROM pg_shdepend AS d
  WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = to_regrole(migrator) AND d.deptype <> 'o'
    AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND NOT (d.classid = 'pg_namespace'::regclass AND d.objid IN ((SELECT oid FROM space), 'kernel_migrations'::regnamespace))
    AND NOT (d.classid = 'pg_proc'::regclass AND d.objid IN (
      SELECT oid FROM pg_proc WHERE pronamespace = 'kernel_migrations'::regnamespace AND proname IN ('start_file', 'finish_file')))
  UNION ALL
  SELECT 'CatalogueFinding', format('%s is in the schema', pg_describe_object(classid, objid, 0)) FROM (
    SELECT 'pg_class'::regclass, oid FROM relation WHERE relkind NOT IN ('r', 'S', 'i') OR relpersistence <> 'p' OR relispartition
    UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM pg_proc AS p JOIN space ON pronamespace = space.oid
    UNION ALL SELECT 'pg_operator'::regclass, o.oid FROM pg_operator AS o JOIN space ON oprnamespace = space.oid
    UNION ALL SELECT 'pg_opclass'::regclass, o.oid FROM pg_opclass AS o JOIN space ON opcnamespace = space.oid
    UNION ALL SELECT 'pg_opfamily'::regclass, o.oid FROM pg_opfamily AS o JOIN space ON opfnamespace = space.oid
    UNION ALL SELECT 'pg_collation'::regclass, c.oid FROM pg_collation AS c JOIN space ON collnamespace = space.oid
    UNION ALL SELECT 'pg_conversion'::regclass, c.oid FROM pg_conversion AS c JOIN space ON connamespace = space.oid
    UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext AS s JOIN space ON stxnamespace = space.oid
    UNION ALL SELECT 'pg_ts_config'::regclass, t.oid FROM pg_ts_config AS t JOIN space ON cfgnamespace = space.oid
    UNION ALL SELECT 'pg_ts_dict'::regclass, t.oid FROM pg_ts_dict AS t JOIN space ON dictnamespace = space.oid
    UNION ALL SELECT 'pg_type'::regclass, t.oid FROM pg_type AS t JOIN space ON typnamespace = space.oid
      WHERE t.typtype <> 'c' AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid)
    UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger AS t JOIN relation ON tgrelid = relation.oid
      WHERE t.tgenabled <> 'O' OR NOT t.tgisinternal AND NOT EXISTS (
        SELECT FROM pg_trigger AS w WHERE w.tgrelid = 'kernel.model_template'::regclass AND NOT w.tgisinternal
          AND (w.tgname, w.tgfoid, w.tgtype) = (t.tgname, t.tgfoid, t.tgtype))
    UNION ALL SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite AS r JOIN relation ON ev_class = relation.oid
    UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM policy AS p
      WHERE (polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), polroles::text, polcmd) NOT IN (
        SELECT polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), polroles::text, polcmd
        FROM pg_policy WHERE polrelid = 'kernel.model_template'::regclass)
  ) AS foreign_object (classid, objid)
  UNION ALL
  SELECT 'CatalogueFinding', format('%s belongs to %s, not to kernel_operator', relname, pg_get_userbyid(relowner))
  FROM relation WHERE pg_get_userbyid(relowner) NOT IN ('kernel_operator', migrator)
  UNION ALL
  SELECT 'CatalogueFinding', format('table %s: row-level security is not forced', relname)
  FROM relation WHERE relkind = 'r' AND NOT (relrowsecurity AND relforcerowsecurity)
  UNION ALL
  SELECT 'CatalogueFinding', format('table %s is published', relname)
  FROM private WHERE EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = private.oid)
  UNION ALL
  SELECT 'CatalogueFinding', format('table %s inherits or is inherited', relname)
  FROM relation WHERE relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE relation.oid IN (inhrelid, inhparent))
  UNION ALL
  SELECT 'CatalogueFinding', format('%s needs %s', pg_describe_object(d.classid, d.objid, d.objsubid),
    pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid))
  FROM relation
  JOIN (
    SELECT 'pg_class'::regclass AS classid, oid AS objid, oid AS relid FROM relation
    UNION ALL SELECT 'pg_attrdef'::regclass, a.oid, adrelid FROM pg_attrdef AS a
    UNION ALL SELECT 'pg_constraint'::regclass, c.oid, conrelid FROM pg_constraint AS c
  ) AS part ON part.relid = relation.oid
  JOIN pg_depend AS d ON d.classid = part.classid AND d.objid = part.objid
  -- Dependencies on what initdb made are not recorded.
  WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_language'::regclass)
    OR d.refclassid = 'pg_class'::regclass AND (SELECT relnamespace FROM pg_class WHERE oid = d.refobjid) <> (SELECT oid FROM space)
    OR d.refclassid = 'pg_type'::regclass AND (SELECT typnamespace FROM pg_type WHERE oid = d.refobjid) <> (SELECT oid FROM space)
  UNION ALL
  SELECT 'UniqueWithoutTenant', format('%s: a unique index without tenant_id shows one tenant what another has', relation.relname)
  FROM pg_index JOIN relation ON relation.oid = indexrelid
  WHERE indisunique AND NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = indrelid AND attname = 'tenant_id'
      AND attnum = ANY ((indkey::smallint[])[0:indnkeyatts - 1]))
  UNION ALL
  SELECT 'ForeignKeyWithoutTenant', format('constraint %s of table %s: tenant_id must be on both sides', conname, relname)
  FROM pg_constraint JOIN relation ON relation.oid = conrelid
  WHERE contype = 'f' AND NOT EXISTS (
    SELECT FROM unnest(conkey, confkey) AS pair (near, far)
    JOIN pg_attribute AS n ON n.attrelid = conrelid AND n.attnum = near AND n.attname = 'tenant_id'
    JOIN pg_attribute AS f ON f.attrelid = confrelid AND f.attnum = far AND f.attname = 'tenant_id')
$$;

-- Makes the tables and sequences that the migrator owns in the module's schema the operator's, and takes
-- from it the rights on all others.
CREATE FUNCTION kernel_migrations.take_over(module text, migrator text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  schema text := 'module_' || module;
  item record;
BEGIN
  IF to_regnamespace(schema) IS NULL THEN
    RETURN;
  END IF;
  -- Only who has the rights of the old owner may take a thing from it.
  EXECUTE format('GRANT %I TO kernel_operator WITH INHERIT TRUE, SET FALSE', migrator);
  FOR item IN
    SELECT format('%s %I.%I', CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname) AS name
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = schema AND c.relkind IN ('r', 'S') AND c.relowner = to_regrole(migrator)
  LOOP
    EXECUTE format('ALTER %s OWNER TO kernel_operator', item.name);
  END LOOP;
  EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', schema, migrator);
  EXECUTE format('REVOKE %I FROM kernel_operator GRANTED BY kernel_operator', migrator);
END
$$;

CREATE FUNCTION kernel_migrations.module_of_caller() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  module text := (SELECT slug FROM kernel.module_migrators WHERE login = session_user);
BEGIN
  IF module IS NULL THEN
    RAISE EXCEPTION '% is no migrator', session_user USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN module;
END
$$;

-- Lends the migrator the tables that the file alters and lets it refer to others: for this transaction,
-- since finish_file takes both back. Tables of models are never lent. Returns what stands against it.
CREATE FUNCTION kernel_migrations.start_file(tables text[], referenced text[]) RETURNS TABLE (reason text, message text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  module text := kernel_migrations.module_of_caller();
  item record;
BEGIN
  RETURN QUERY
    SELECT 'ModelTable', format('table %s is made from spec.dataApi.models, which alone may change it', m.model)
    FROM kernel.module_models AS m WHERE m.slug = module AND m.model = ANY (tables);
  IF FOUND THEN
    RETURN;
  END IF;
  EXECUTE format('GRANT %I TO kernel_operator WITH INHERIT TRUE, SET TRUE', session_user);
  FOR item IN
    SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relname = ANY (tables) AS lent
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'module_' || module AND c.relkind = 'r' AND c.relname = ANY (tables || referenced)
      AND c.relowner = 'kernel_operator'::regrole
  LOOP
    IF item.lent THEN
      EXECUTE format('ALTER TABLE %s OWNER TO %I', item.name, session_user);
    ELSE
      EXECUTE format('GRANT REFERENCES ON TABLE %s TO %I', item.name, session_user);
    END IF;
  END LOOP;
  EXECUTE format('REVOKE %I FROM kernel_operator GRANTED BY kernel_operator', session_user);
END
$$;

-- Takes everything over, protects it, looks for what is wrong, and records the file. The caller must
-- roll back when a row is returned. `xid`: the transaction that start_file was in.
CREATE FUNCTION kernel_migrations.finish_file(xid text, file text, sum text, release text)
RETURNS TABLE (reason text, message text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  module text := kernel_migrations.module_of_caller();
  schema text := 'module_' || module;
  made oid[];
  item record;
  strangers boolean;
BEGIN
  IF pg_current_xact_id()::text <> xid THEN
    RETURN QUERY SELECT 'CatalogueFinding', 'the file ended its transaction';
    RETURN;
  END IF;
  made := ARRAY(
    SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = schema AND c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid));
  PERFORM kernel_migrations.take_over(module, session_user);
  PERFORM kernel_migrations.protect(module);
  RETURN QUERY SELECT * FROM kernel_migrations.findings(module, session_user);
  IF FOUND THEN
    RETURN;
  END IF;
  -- Only now: nothing that a stranger made can be run by reading these tables. They belong to the
  -- operator, whom row-level security binds as well, unless it is not forced.
  FOR item IN SELECT format('%I.%I', schema, c.relname) AS name, c.relname FROM pg_class AS c WHERE c.oid = ANY (made) LOOP
    EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', item.name);
    EXECUTE format(
      'SELECT EXISTS (SELECT FROM ONLY %s AS t WHERE NOT EXISTS (
         SELECT FROM kernel.module_tenants AS m WHERE m.slug = $1 AND m.tenant_id = t.tenant_id))', item.name)
      INTO strangers USING module;
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', item.name);
    IF strangers THEN
      RETURN QUERY SELECT 'TenantUnknown', format(
        'table %s has rows of a tenant that the module is not active for; leave them out', item.relname);
    END IF;
  END LOOP;
  INSERT INTO kernel.module_migrations (slug, name, checksum, version) VALUES (module, file, sum, release);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA kernel_migrations FROM PUBLIC;
