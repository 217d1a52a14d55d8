"""Everything the processes of change data capture are told from outside: environment variables, read once at start."""

from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """A variable is missing or wrong; the message names each one, never its value."""


class KafkaSettings(BaseSettings):
    """What source and sink share. Field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    kafka_brokers: str = Field(min_length=1)
    """host:port, comma separated"""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "SASL_SSL"
    kafka_sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = "SCRAM-SHA-256"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")

    cdc_host: str = "0.0.0.0"  # noqa: S104 - probes and scrapes come from outside the container
    cdc_port: int = Field(8080, ge=0, le=65535)
    """/live, /ready and /metrics"""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = True

    def kafka_client(self) -> dict[str, Any]:
        """How librdkafka is told to connect. Holds the password."""
        client: dict[str, Any] = {
            "bootstrap.servers": self.kafka_brokers,
            "security.protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol.startswith("SASL"):
            client |= {
                "sasl.mechanisms": self.kafka_sasl_mechanism,
                "sasl.username": self.kafka_username,
                "sasl.password": self.kafka_password.get_secret_value(),
            }
        return client


class SourceSettings(KafkaSettings):
    """``kernel-cdc source``."""

    database_url: SecretStr
    """postgres://kernel_cdc:...@host:port/platform"""
    cdc_wal_bloat_alert_gb: float = Field(50, gt=0)
    """The gauge ``kernel_cdc_source_wal_bloat`` is 1 when the slot retains more than this (10**9 bytes)."""
    cdc_heartbeat_sec: float = Field(10, gt=0, le=30)
    """How often something is written to the log, so that the slot moves on in a quiet database."""
    cdc_lag_snapshot_sec: float = Field(300, gt=0)
    """Tables are read ahead of the stream when it is so many seconds behind."""
    cdc_source_buffer_mb: int = Field(32, ge=1, le=1024)
    """What may wait for Kafka's acknowledgement; then reading stops."""

    @field_validator("database_url")
    @classmethod
    def _is_url(cls, value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value())
            right = parts.scheme in {"postgres", "postgresql"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number
            right = False
        if not right:
            raise ValueError("must be a URL, postgres://user:password@host:port/database")
        return value


class SinkSettings(KafkaSettings):
    """``kernel-cdc sink``."""

    clickhouse_url: SecretStr
    """http(s)://cdc_writer:...@host:port"""
    clickhouse_database: str = Field("analytics", pattern=r"^[a-z][a-z0-9_]*$")
    valkey_url: SecretStr
    """redis(s)://kernel_cdc:...@host:port/0; it is told when each table was last synced"""
    cdc_sink_batch_rows: int = Field(10_000, ge=1, le=1_000_000)
    cdc_sink_flush_sec: float = Field(1.0, gt=0, le=60)
    """A batch is written when it has so many rows, or is so many seconds old."""
    cdc_sink_session_sec: float = Field(10, ge=6, le=300)
    """After so many seconds others take over from a process that died."""

    @field_validator("clickhouse_url")
    @classmethod
    def _is_http(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be a URL, http(s)://user:password@host:port")
        return value

    @field_validator("valkey_url")
    @classmethod
    def _is_redis(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
            raise ValueError("must be a URL, redis(s)://user:password@host:port/0")
        return value


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """The settings of this process. Raises SettingsError."""
    try:
        return kind()
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError("; ".join(problems)) from None
