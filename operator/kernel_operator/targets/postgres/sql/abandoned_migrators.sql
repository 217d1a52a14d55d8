-- Modules whose migrator is there although nobody runs it.
SELECT slug FROM kernel.module_migrators WHERE to_regrole(login) IS NOT NULL ORDER BY slug FOR UPDATE SKIP LOCKED
