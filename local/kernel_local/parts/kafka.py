"""Kafka 4.3 as one KRaft node: broker and controller in one JVM, SASL on both listeners, ACLs enforced.

The only super user is the platform's administrator, who logs in with PLAIN because that password can stand in the
broker's own file (mode 0600); SCRAM passwords would have to pass through the format tool's command line. Everyone else
is a SCRAM user made through the admin API. The controller's listener asks for the same password: an open one beside
``super.users=User:ANONYMOUS`` would make everyone on this machine a super user.
"""

import asyncio
import base64
import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernel_local import files, paths, probe
from kernel_local.errors import PartFailed
from kernel_local.part import Command, Part, minimal_environment
from kernel_local.toolchain import jars, java

ADMIN, OPERATOR, CDC, SINK = "kernel_admin", "kernel_operator", "kernel_cdc", "kernel_sink"
GATEWAY = "kernel_gateway"
_CLUSTER = ("BROKER", "kafka-cluster", "LITERAL")
_TOPICS = ("TOPIC", "platform.", "PREFIXED")
USERS: dict[str, dict[tuple[str, str, str], tuple[str, ...]]] = {
    OPERATOR: {
        # No more on the cluster: CREATE would be every topic name, ALTER would let it grant itself the rest.
        _CLUSTER: ("DESCRIBE",),
        _TOPICS: ("CREATE", "ALTER", "ALTER_CONFIGS", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS"),
    },
    CDC: {_TOPICS: ("WRITE", "DESCRIBE")},
    SINK: {
        ("TOPIC", "platform.data.events", "LITERAL"): ("READ",),
        ("TOPIC", "platform.data.events.dlq", "LITERAL"): ("WRITE",),
        ("GROUP", "kernel.cdc-sink", "LITERAL"): ("READ",),
    },
    GATEWAY: {
        # It reads dead letters and sends them again. A rule can't say "all that end with .dlq".
        _TOPICS: ("READ", "WRITE", "DESCRIBE"),
        # It tells where groups are, and moves those of modules.
        ("GROUP", "*", "LITERAL"): ("READ", "DESCRIBE"),
    },
}
"""Who logs in with SCRAM, and what each may do: (kind, name, pattern) of a resource to operations."""
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-Xms64m", "-Xmx256m", "-XX:-UsePerfData")


class Kafka(Part):
    name = "kafka"
    port_names = ("kafka", "kafka_controller")

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self.site.port(self.port_names[0])}"

    def client(self, user: str = ADMIN) -> dict[str, Any]:
        """confluent-kafka's configuration for the administrator, or for a SCRAM user of ours."""
        return {
            "bootstrap.servers": self.brokers,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanisms": "PLAIN" if user == ADMIN else "SCRAM-SHA-256",
            "sasl.username": user,
            "sasl.password": self.site.secret(f"kafka_{user}"),
        }

    async def prepare(self) -> None:
        if "," in str(self.home):
            raise PartFailed(f"kafka: its data can't lie in {self.home}, because of the comma: choose another --data")
        self._jars = await jars.find(self.site, self.note)
        self._java = await java.find(self.site)
        self._archive = await self._trained()
        await self._format()

    async def _trained(self) -> Path | None:
        """The JVM's archive of loaded classes, which saves a second of every start. Made once, by a broker of its
        own. Empty: this JVM can't make one, and starts without."""
        archive = paths.cache() / f"{self._jars.name}-{_fingerprint(self._java)}.jsa"
        if not archive.exists():
            async with files.locked(archive.with_suffix(".lock"), lambda: self.note("another command trains the JVM")):
                if not archive.exists():
                    self.note("training the JVM (once)")
                    try:
                        await Training(self.site).record(archive)
                    except PartFailed:
                        archive.touch()
        return archive if archive.stat().st_size else None

    async def _format(self) -> None:
        properties = self.home / "server.properties"
        files.write(properties, self._properties())
        if not (self.home / "data/meta.properties").exists():
            self.note("formatting storage")
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            # An id may not begin with a dash: the format tool would take it for an option.
            cluster = "k" + cluster[1:]
            await self.site.processes.call(
                "kafka-format",
                [
                    *self._run("kafka.tools.StorageTool"),
                    "format",
                    "-t",
                    cluster,
                    "-c",
                    properties,
                    "--ignore-formatted",
                ],
                environment=minimal_environment(),
                log=self.site.log(self.name),
            )

    def _run(self, program: str) -> list[str | Path]:
        logging = f"-Dlog4j2.configurationFile={jars.LOGGING.as_uri()}"
        archive = [f"-XX:SharedArchiveFile={self._archive}", "-Xshare:auto"] if self._archive else []
        return [self._java, *_JVM, *archive, logging, "-cp", f"{self._jars}/*", program]

    def command(self) -> Command:
        return Command([*self._run("kafka.Kafka"), self.home / "server.properties"])

    def _properties(self) -> str:
        password = self.site.secret(f"kafka_{ADMIN}")
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        login = f'{plain} username="{ADMIN}" password="{password}" user_{ADMIN}="{password}" ;'
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required ;"
        client, controller = (self.site.port(name) for name in self.port_names)
        values = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{client}",
            "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.client.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.client.plain.sasl.jaas.config": login,
            "listener.name.client.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.client.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.controller.plain.sasl.jaas.config": login,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN}",
            "allow.everyone.if.no.acl.found": "false",
            "auto.create.topics.enable": "false",
            # In a properties file a backslash escapes, and must itself be escaped.
            "log.dirs": str(self.home / "data").replace("\\", "\\\\"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.dedupe.buffer.size": "4194304",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "background.threads": "2",
            # A broker that was killed may register again once its old session is over: don't make it wait 9 s.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
        }
        return "".join(f"{name}={value}\n" for name, value in values.items())

    async def ready(self) -> bool:
        return await probe.listens(self.site.port(self.port_names[0])) and await asyncio.to_thread(self._describes)

    def _describes(self) -> bool:
        from confluent_kafka import KafkaException

        client = _admin(self.client())  # its answers die with it, so it needs a name
        try:
            described = client.describe_cluster(request_timeout=5).result(6)
        except (KafkaException, TimeoutError):
            return False
        return bool(described.controller)

    async def provision(self) -> None:
        await asyncio.to_thread(grant, self.client(), {user: self.site.secret(f"kafka_{user}") for user in USERS})


class Training(Kafka):
    """A broker that starts and stops once, so that the JVM writes down which classes it loaded."""

    name = "kafka-training"
    port_names = ("kafka_training", "kafka_training_controller")
    grace = 60.0

    async def record(self, archive: Path) -> None:
        """Makes ``archive``. Raises PartFailed."""
        shutil.rmtree(self.home, ignore_errors=True)
        self._partial = archive.with_suffix(".new")
        try:
            await self.start()
            if not await self.stop() or not await asyncio.to_thread(self._partial.exists):
                raise PartFailed("kafka: the JVM wrote no archive")
            self._partial.rename(archive)
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    async def _trained(self) -> Path | None:
        return None

    def command(self) -> Command:
        java, *rest = super().command().argv
        return Command([java, f"-XX:ArchiveClassesAtExit={self._partial}", *rest])

    async def provision(self) -> None:
        """Nobody will use it."""


def _fingerprint(java: Path) -> str:
    """Changes with the JVM, whose archives are its own."""
    binary = java.resolve()
    return hashlib.sha256(f"{binary}:{binary.stat().st_mtime_ns}".encode()).hexdigest()[:8]


def grant(configuration: dict[str, Any], passwords: Mapping[str, str]) -> None:
    """Makes the SCRAM users that ``passwords`` names, with their rights and no other."""
    from confluent_kafka import KafkaException, admin

    kafka: Any = admin  # its names are re-exported in a way that type checkers don't see
    bindings = [
        kafka.AclBinding(
            kafka.ResourceType[kind],
            name,
            kafka.ResourcePatternType[pattern],
            f"User:{user}",
            "*",
            kafka.AclOperation[operation],
            kafka.AclPermissionType.ALLOW,
        )
        for user in passwords
        for (kind, name, pattern), operations in USERS[user].items()
        for operation in operations
    ]
    client = _admin(configuration)
    scram = kafka.ScramCredentialInfo(kafka.ScramMechanism.SCRAM_SHA_256, 4096)
    users = [kafka.UserScramCredentialUpsertion(user, scram, text.encode()) for user, text in passwords.items()]
    try:
        waiting = [*client.create_acls(bindings).values(), *client.alter_user_scram_credentials(users).values()]
        for answer in waiting:
            answer.result(20)
    except (KafkaException, TimeoutError) as error:
        raise PartFailed(f"kafka: the users and their rights could not be made: {error}") from None


def _admin(configuration: dict[str, Any]) -> Any:
    from confluent_kafka.admin import AdminClient

    # The library prints connection errors to stderr by itself; they come back as exceptions too.
    return AdminClient(configuration | {"log_level": 0})
