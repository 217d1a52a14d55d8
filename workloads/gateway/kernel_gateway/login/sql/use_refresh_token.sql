-- $1 id, $2 the token that replaces it, $3 the answer, sealed.
UPDATE auth.refresh_tokens SET used_at = clock_timestamp(), replaced_by = $2, answer = $3 WHERE id = $1
