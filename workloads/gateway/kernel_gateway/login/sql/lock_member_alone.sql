-- $1 user. As lock_member.sql, but alone.
SELECT status FROM auth.members WHERE user_id = $1 FOR NO KEY UPDATE
