UPDATE auth.roles SET name = $2, description = $3, permissions = $4 WHERE id = $1
RETURNING id, name, description, permissions, built_in, created_by, created_at, updated_at
