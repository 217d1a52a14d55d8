SELECT name, toString(auth_type) AS auth_type
FROM system.users
WHERE startsWith(name, {prefix:String}) AND ({all:UInt8} OR (name IN {names:Array(String)}))
