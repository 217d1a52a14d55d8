-- The last version of records that are gone: not deleted here, and older than a whole reading of their table that
-- would have renewed them. Their keys are found first, in few columns; only their rows are read as a whole. Which of them
-- are in a partition of the topic, Kafka's hash of the key tells. Names are qualified, as aliases would come first.
INSERT INTO $table
SELECT t.* REPLACE (
    1 AS is_deleted,
    t.updated_at + toIntervalMicrosecond(1) AS updated_at,
    t.updated_at + toIntervalMicrosecond(1) AS deleted_at,
    {lsn:UInt64} AS _lsn,
    'w' AS _op,
    now64(6, 'UTC') AS _synced_at
)
FROM $table AS t FINAL
WHERE t.is_deleted = 0 AND t._lsn < {lsn:UInt64} AND (t.tenant_id, t.record_id) IN (
    SELECT k.tenant_id, k.record_id
    FROM $table AS k FINAL
    WHERE k.is_deleted = 0
        AND k._lsn < {lsn:UInt64}
        AND kafkaMurmurHash(toString(k.record_id)) % {partitions:UInt32} IN {swept:Array(UInt32)}
)
