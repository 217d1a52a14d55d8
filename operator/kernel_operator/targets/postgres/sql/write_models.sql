-- $1 slug, $2 an array of models
INSERT INTO kernel.module_models (slug, model, columns, analytics, retention_days)
SELECT $1, model, columns, analytics, retention_days FROM jsonb_populate_recordset(NULL::kernel.module_models, $2::jsonb)
ON CONFLICT (slug, model) DO UPDATE SET
  columns = excluded.columns, analytics = excluded.analytics, retention_days = excluded.retention_days
