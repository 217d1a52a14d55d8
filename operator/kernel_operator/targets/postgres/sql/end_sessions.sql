-- Ends the sessions of the login $1 and waits up to 5 s for each.
SELECT pid, pg_terminate_backend(pid, 5000) AS ended FROM pg_stat_activity WHERE usename = $1
