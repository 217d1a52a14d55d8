SELECT user_name, toString(access_type) AS access_type, database, table, column, is_partial_revoke, grant_option
FROM system.grants
WHERE match(ifNull(user_name, ''), {names:String})
