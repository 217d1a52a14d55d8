SELECT user_name, toString(access_type) AS access_type, database, table, column, is_partial_revoke, grant_option
FROM system.grants
WHERE startsWith(ifNull(user_name, ''), {prefix:String}) AND ({all:UInt8} OR (user_name IN {names:Array(String)}))
