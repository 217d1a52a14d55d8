SELECT short_name, table, select_filter, is_restrictive, apply_to_all, apply_to_list, apply_to_except
FROM system.row_policies
WHERE (database = {database:String}) AND match(table, {names:String})
