"""A ClickHouse server for development and tests: the real engine (chdb-core) behind ClickHouse's HTTP interface.

Not for production. See docs/development-clickhouse.md for what is real and what is not.
"""
