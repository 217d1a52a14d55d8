SELECT table, partition_id
FROM system.parts
WHERE active AND (database = {database:String}) AND match(table, '^module_')
GROUP BY table, partition_id
HAVING (count() > 1) AND (argMax(modification_time, rows) < fromUnixTimestamp({since:Int64}))
ORDER BY table, partition_id
