-- $1 hash. The member before the token: who ends sessions locks in this order too.
SELECT t.id, t.user_id
FROM auth.refresh_tokens AS t JOIN auth.members AS m USING (tenant_id, user_id)
WHERE t.token_hash = $1
FOR SHARE OF m
