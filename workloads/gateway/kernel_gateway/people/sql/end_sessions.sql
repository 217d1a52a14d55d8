-- Ends the sessions of $1 in the transaction's tenant.
UPDATE auth.refresh_tokens SET revoked_at = clock_timestamp(), answer = NULL WHERE user_id = $1 AND revoked_at IS NULL
