"""The analytics read API: aggregates over the records of a module's model."""
