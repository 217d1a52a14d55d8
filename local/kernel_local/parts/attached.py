"""A system that runs elsewhere: nothing to start or stop, but the administrator's work on it is the same."""

import asyncio
import json

from kernel_local.connections import Connections
from kernel_local.part import Part
from kernel_local.parts import clickhouse, kafka, postgres, valkey
from kernel_local.processes import Process


class Attached(Part):
    """Stands for an external system under the name of our own part, so that others can wait for it."""

    runs_here = False

    def __init__(self, own: Part) -> None:
        super().__init__(own.site)
        self.name = own.name

    @property
    def where(self) -> str:
        return Connections(self.site).where(self.name)

    def process(self) -> Process | None:
        return None

    async def ready(self) -> bool:
        return True

    async def start(self) -> bool:
        self.note("provisioning")
        await self.provision()
        return False

    async def stop(self, grace: float | None = None) -> bool:
        return True

    async def provision(self) -> None:
        connections = Connections(self.site)
        admin, secret = connections.administrator(), self.site.secret
        match self.name:
            case "postgres":
                await postgres.bootstrap(self.site, admin["DATABASE_URL"])
            case "clickhouse":
                await clickhouse.bootstrap(self.site, admin["CLICKHOUSE_URL"])
            case "valkey":
                passwords = {user: secret(f"valkey_{user}") for user in valkey.USERS}
                await valkey.provision(admin["VALKEY_URL"], passwords)
            case "kafka":
                given = json.loads(connections.external("kafka") or "{}")
                if "SASL" in given.get("KAFKA_SECURITY_PROTOCOL", ""):
                    names = {
                        "bootstrap.servers": "KAFKA_BROKERS",
                        "security.protocol": "KAFKA_SECURITY_PROTOCOL",
                        "sasl.mechanisms": "KAFKA_SASL_MECHANISM",
                        "sasl.username": "KAFKA_USERNAME",
                        "sasl.password": "KAFKA_PASSWORD",
                    }
                    client = {name: given[variable] for name, variable in names.items() if variable in given}
                    await asyncio.to_thread(
                        kafka.grant, client, {user: secret(f"kafka_{user}") for user in kafka.USERS}
                    )
