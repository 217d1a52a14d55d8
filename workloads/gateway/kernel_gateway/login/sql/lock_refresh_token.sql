-- $1 id. Of callers with one token, each waits here for the one before it.
SELECT FROM auth.refresh_tokens WHERE id = $1 FOR UPDATE
