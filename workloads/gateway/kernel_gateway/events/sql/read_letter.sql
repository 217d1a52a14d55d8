SELECT * FROM kernel.dlq_records WHERE id = $1
