SELECT
    name,
    engine,
    engine_full,
    sorting_key,
    as_select,
    extract(create_table_query, 'SQL SECURITY ([A-Z]+)') AS sql_security,
    comment
FROM system.tables
WHERE (database = {database:String}) AND match(name, {names:String})
