SELECT name, toString(auth_type) AS auth_type
FROM system.users
WHERE match(name, {names:String})
