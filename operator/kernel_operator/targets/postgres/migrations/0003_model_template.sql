-- The pattern of every table that a module's model becomes. Tables are made LIKE it, and are compared
-- with it afterwards: what differs is put right. It holds no rows and nobody has rights on it.

-- Strictly increasing for a row, whatever the clock does: analytics keeps the row with the latest
-- updated_at, so neither two changes in one instant nor a clock that steps back may confuse it.
CREATE FUNCTION kernel.touch_updated_at() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN
    NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond');
  ELSE
    NEW.updated_at := clock_timestamp();
  END IF;
  RETURN NEW;
END
$$;

CREATE FUNCTION kernel.refuse_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  RAISE EXCEPTION 'TRUNCATE is refused on %.%', TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'insufficient_privilege', HINT = 'It would empty every tenant''s rows and leave analytics as it is.';
END
$$;

CREATE TABLE kernel.model_template (
  id uuid NOT NULL DEFAULT uuidv7(),
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  deleted_at timestamptz,
  idempotency_key uuid,
  PRIMARY KEY (tenant_id, id),
  UNIQUE (tenant_id, idempotency_key)
);
ALTER TABLE kernel.model_template ENABLE ROW LEVEL SECURITY;
ALTER TABLE kernel.model_template FORCE ROW LEVEL SECURITY;
-- nullif: after its transaction a setting reads as an empty string, which is no uuid.
-- SELECT: the setting is read once a statement, not once a row.
CREATE POLICY tenant_isolation ON kernel.model_template
  USING (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid))
  WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));
CREATE TRIGGER touch_updated_at BEFORE INSERT OR UPDATE ON kernel.model_template
  FOR EACH ROW EXECUTE FUNCTION kernel.touch_updated_at();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON kernel.model_template
  FOR EACH STATEMENT EXECUTE FUNCTION kernel.refuse_truncate();

CREATE TRIGGER touch_updated_at BEFORE INSERT OR UPDATE ON kernel.tenants
  FOR EACH ROW EXECUTE FUNCTION kernel.touch_updated_at();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON kernel.tenants
  FOR EACH STATEMENT EXECUTE FUNCTION kernel.refuse_truncate();
CREATE TRIGGER touch_updated_at BEFORE INSERT OR UPDATE ON kernel.modules
  FOR EACH ROW EXECUTE FUNCTION kernel.touch_updated_at();
