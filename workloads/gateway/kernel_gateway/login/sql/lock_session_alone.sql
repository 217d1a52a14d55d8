-- $1 hash. As lock_session.sql, but alone: nobody makes or refreshes a session of this member meanwhile, so that what is
-- revoked next is all there is. What the token is now must be read after it, in a statement of its own.
SELECT t.id, t.user_id
FROM auth.refresh_tokens AS t JOIN auth.members AS m USING (tenant_id, user_id)
WHERE t.token_hash = $1
FOR NO KEY UPDATE OF m
