-- $1: one role, or NULL for all; $2: after which one; $3: how many
SELECT id, name, description, permissions, built_in, created_by, created_at, updated_at
FROM auth.roles
WHERE ($1::uuid IS NULL OR id = $1) AND ($2::uuid IS NULL OR id > $2)
ORDER BY id LIMIT $3
