"""What the tests of source and sink share."""

import pytest

from kernel_local.testing import KafkaServer
from kernel_operator.targets.kafka import KafkaTarget


@pytest.fixture(scope="session")
async def topics(kafka: KafkaServer) -> None:
    """The kernel's topics, made as the operator makes them."""
    conf = kafka.operator_conf
    target = KafkaTarget(
        conf["bootstrap.servers"],
        username=conf["sasl.username"],
        password=conf["sasl.password"],
        security_protocol=conf["security.protocol"],
        sasl_mechanism=conf["sasl.mechanisms"],
    )
    await target.ensure_kernel_topics()
    await target.close()
