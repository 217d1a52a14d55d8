-- $1 id, $2 the grace window. A statement of its own, after the lock: its clock is read when the row is ours.
SELECT family_id, used_at IS NOT NULL AS used, revoked_at IS NOT NULL AS revoked, expires_at <= clock_timestamp() AS expired,
  clock_timestamp() - used_at <= $2::interval AS in_window, answer
FROM auth.refresh_tokens WHERE id = $1
