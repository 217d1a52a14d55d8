CREATE TABLE IF NOT EXISTS $table
(
    tenant_id UUID,
    record_id UUID,
    created_at DateTime64(6, 'UTC'),
    updated_at DateTime64(6, 'UTC'),
    deleted_at Nullable(DateTime64(6, 'UTC')),
$columns    is_deleted UInt8,
    _lsn UInt64,
    _op LowCardinality(String),
    _synced_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (tenant_id, record_id)
$ttl
SETTINGS non_replicated_deduplication_window = $window
COMMENT $comment
