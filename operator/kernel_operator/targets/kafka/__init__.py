"""The Kafka target: topics with their partitions and retention, by the admin API alone."""

from kernel_operator.targets.kafka.target import KafkaTarget

__all__ = ["KafkaTarget"]
