"""Each server of the platform by itself: it answers its users, refuses everyone else, and survives ``kill -9``."""

import os
import stat
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio
import redis.exceptions
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from kernel_local.testing import ClickHouseServer, KafkaServer, KubernetesServer, PostgresServer, Run, ValkeyServer


async def test_postgres_logical_and_password_only(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.admin_url)
    try:
        assert await connection.fetchval("SHOW wal_level") == "logical"
        assert str(await connection.fetchval("SHOW server_version")).startswith("18.")
    finally:
        await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres.url("postgres", "wrong", "postgres"))


async def test_postgres_keeps_data_over_a_kill(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.admin_url)
    await connection.execute("CREATE TABLE survivor AS SELECT 42 AS answer")
    await connection.close()
    port = postgres.port
    postgres.kill()
    assert postgres.pid == 0
    with pytest.raises(OSError):
        await asyncpg.connect(postgres.admin_url)
    postgres.start()
    assert postgres.port == port
    connection = await asyncpg.connect(postgres.admin_url)
    try:
        assert await connection.fetchval("SELECT answer FROM survivor") == 42
        await connection.execute("DROP TABLE survivor")
    finally:
        await connection.close()


async def test_valkey_refuses_the_default_user(valkey: ValkeyServer) -> None:
    async with redis.asyncio.Redis(port=valkey.port) as anyone:
        with pytest.raises(redis.exceptions.AuthenticationError):
            await anyone.ping()
    async with redis.asyncio.Redis.from_url(valkey.admin_url) as admin:
        assert await admin.acl_whoami() == "kernel_admin"


async def test_valkey_operator_is_limited_to_its_keys(valkey: ValkeyServer) -> None:
    operator: Any
    async with redis.asyncio.Redis.from_url(valkey.operator_url) as operator:
        await operator.set("rate_limit:config:x", "1")
        assert await operator.mget("rate_limit:config:x") == [b"1"]
        await operator.delete("rate_limit:config:x")
        async with operator.pipeline(transaction=True) as pipe:
            pipe.hset("routes:table", "crm", "{}")
            pipe.publish("kernel:changes", "routes")
            pipe.delete("routes:table")
            assert await pipe.execute() == [1, 0, 1]
        refused = [
            ("SET", "session:1", "x"),
            ("MGET", "rate_limit:other"),
            ("GET", "tenant:x"),
            ("EVAL", "return 1", "0"),
            ("PUBLISH", "other", "x"),
            ("KEYS", "*"),
        ]
        refused += [("FLUSHALL",), ("CONFIG", "GET", "*"), ("SCAN", "0"), ("ACL", "LIST")]
        for command in refused:
            with pytest.raises(redis.exceptions.NoPermissionError):
                await operator.execute_command(*command)


def test_kafka_operator_administers_and_reads_nothing(kafka: KafkaServer) -> None:
    operator = AdminClient(kafka.operator_conf)
    operator.create_topics([NewTopic("platform.trial.events", 1, 1)])["platform.trial.events"].result(20)
    try:
        with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
            operator.create_topics([NewTopic("other", 1, 1)])["other"].result(20)
        failures: list[object] = []
        producer = Producer(kafka.operator_conf | {"message.timeout.ms": 5000})
        producer.produce("platform.trial.events", b"x", on_delivery=lambda error, _: failures.append(error))
        producer.flush(10)
        assert len(failures) == 1
        assert "authorization" in str(failures[0]).lower()
    finally:
        operator.delete_topics(["platform.trial.events"])["platform.trial.events"].result(20)


def test_kafka_refuses_a_wrong_password(kafka: KafkaServer) -> None:
    client = AdminClient(kafka.admin_conf | {"sasl.password": "wrong", "log_level": 0})
    with pytest.raises(KafkaException):
        client.list_topics(timeout=2)


async def test_kubernetes_deletes_a_namespace(kubernetes: KubernetesServer) -> None:
    kubernetes.kubectl("create", "namespace", "trial")
    kubernetes.kubectl("create", "configmap", "thing", "-n", "trial", "--from-literal=a=b")
    kubernetes.kubectl("delete", "namespace", "trial", "--timeout=60s")
    assert kubernetes.kubectl("get", "namespace", "trial", check=False).returncode != 0


async def test_kubernetes_refuses_whom_it_does_not_know(kubernetes: KubernetesServer) -> None:
    refused = kubernetes.kubectl(
        "--kubeconfig=/dev/null", f"--server={kubernetes.url}", "--insecure-skip-tls-verify", "get", "ns", check=False
    )
    assert refused.returncode != 0


async def test_clickhouse_answers_its_administrator(clickhouse: ClickHouseServer) -> None:
    import clickhouse_connect

    client = await clickhouse_connect.get_async_client(dsn=clickhouse.admin_url)
    try:
        assert (await client.query("SELECT 6 * 7")).result_rows == [(42,)]
    finally:
        await client.close()


def test_secrets_are_for_the_owner_only(platform_run: Run) -> None:
    assert platform_run.site.secret("any")
    assert stat.S_IMODE((platform_run.site.data / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(platform_run.site.data.stat().st_mode) == 0o700


async def test_no_secret_on_a_command_line(
    platform_run: Run, postgres: PostgresServer, valkey: ValkeyServer, kafka: KafkaServer
) -> None:
    secrets = [platform_run.site.secret(n) for n in ("postgres_superuser", "kafka_kernel_admin", "valkey_kernel_admin")]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        assert not any(secret in arguments for secret in secrets)
