"""The files of the Kafka broker: what to fetch, and how it logs."""
