SELECT tenant_id, record_id, created_at, updated_at$columns
FROM $table FINAL
WHERE (is_deleted = 0) AND (deleted_at IS NULL)$retention
