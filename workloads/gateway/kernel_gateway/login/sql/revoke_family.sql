-- $1 family. In one order, so that two who do it at once don't wait for each other in a circle.
UPDATE auth.refresh_tokens SET revoked_at = clock_timestamp(), answer = NULL
WHERE id IN (SELECT id FROM auth.refresh_tokens WHERE family_id = $1 AND revoked_at IS NULL ORDER BY id FOR UPDATE)
