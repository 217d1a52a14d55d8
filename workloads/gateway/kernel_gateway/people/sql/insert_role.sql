INSERT INTO auth.roles (name, description, permissions, created_by) VALUES ($1, $2, $3, $4)
RETURNING id, name, description, permissions, built_in, created_by, created_at, updated_at
