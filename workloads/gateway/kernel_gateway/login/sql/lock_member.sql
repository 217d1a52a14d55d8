-- $1 user. Whoever blocks or removes a member, or changes the user's password, waits for the sessions that are being
-- made, and those that come later see the change.
SELECT status FROM auth.members WHERE user_id = $1 FOR SHARE
