"""PostgreSQL's write-ahead log to Kafka."""
