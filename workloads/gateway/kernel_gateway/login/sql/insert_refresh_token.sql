-- $1 id, $2 user, $3 family, $4 hash, $5 lifetime. The transaction is the tenant's.
INSERT INTO auth.refresh_tokens (id, user_id, family_id, token_hash, expires_at)
VALUES ($1, $2, $3, $4, clock_timestamp() + $5::interval)
RETURNING expires_at
