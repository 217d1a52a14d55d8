-- Whoever wants the same letter waits for us, and then sees what became of it.
SELECT * FROM kernel.dlq_records WHERE id = $1 FOR UPDATE
