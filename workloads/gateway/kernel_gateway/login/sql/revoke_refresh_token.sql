-- $1 id.
UPDATE auth.refresh_tokens SET revoked_at = clock_timestamp(), answer = NULL WHERE id = $1
