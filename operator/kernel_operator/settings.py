"""Everything the operator is told from outside, in one place: environment variables, read once at start."""

from functools import cached_property
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Base64Bytes, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_SCHEMES = {
    "database_url": ("postgres", "postgresql"),
    "clickhouse_url": ("http", "https"),
    "valkey_url": ("redis", "rediss"),
}


class SettingsError(Exception):
    """A variable is missing or wrong; the message names each one, never its value."""


class Settings(BaseSettings):
    """Field names are the variables' names in lower case. Passwords travel inside the URLs."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: SecretStr
    """postgres://kernel_operator:...@host:port/platform"""
    outbox_retain_hours: int = Field(48, ge=1)
    """How long published events stay in the outbox at least; above the hours that the server keeps its log."""
    clickhouse_url: SecretStr
    """http(s)://kernel_operator:...@host:port"""
    clickhouse_database: str = "analytics"
    valkey_url: SecretStr
    """redis(s)://kernel_operator:...@host:port/0"""

    kafka_brokers: str
    """host:port, comma separated"""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "SASL_SSL"
    kafka_sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = "SCRAM-SHA-256"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_retention_hours: int = Field(168, ge=1)
    kafka_audit_retention_hours: int = Field(720, ge=1)

    kernel_master_key: Annotated[Base64Bytes, Field(min_length=32)] = Field(repr=False)
    """Base64 of at least 32 bytes; the tenants' ClickHouse passwords are derived from it."""

    operator_namespace: str = "platform-kernel"
    """Where the operator runs; only modules of this namespace may use the scope @kernel."""
    operator_selector_namespaces: Annotated[frozenset[str], NoDecode] = frozenset()
    """Namespaces (comma separated) whose modules may select tenants by label, or all of them. The
    operator's own is always among them."""
    operator_http_port: int = Field(8080, ge=0, le=65535)
    """/livez, /readyz and /metrics"""
    operator_http_host: str = "0.0.0.0"  # noqa: S104 - probes and scrapes come from outside the pod
    operator_resync_seconds: float = Field(60.0, ge=1)
    """How often everything is compared with what is really there."""
    operator_optimize_hour: int = Field(3, ge=0, le=23)
    """The hour (UTC) at which old versions of rows are merged away in ClickHouse, each night."""
    operator_stall_seconds: float = Field(120.0, ge=5)
    """/livez fails when work has waited this long with nothing finished, or the watch lags so long."""

    operator_fault_after_writes: int | None = Field(None, ge=1)
    """For tests: the process kills itself right after it has changed something outside this many times."""

    module_database_host: str = ""
    """What modules find in their Secret, when it differs from the host in DATABASE_URL."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = True

    @field_validator("operator_selector_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("database_url", "clickhouse_url", "valkey_url")
    @classmethod
    def _is_url(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        schemes = _SCHEMES[info.field_name or ""]
        try:
            parts = urlsplit(value.get_secret_value())
            right = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number
            right = False
        if not right:
            raise ValueError(f"must be a URL, {schemes[0]}://user:password@host:port")
        return value

    @cached_property
    def selector_namespaces(self) -> frozenset[str]:
        return self.operator_selector_namespaces | {self.operator_namespace}


def load() -> Settings:
    """The settings of this process. Raises SettingsError."""
    try:
        return Settings()
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError("; ".join(problems)) from None


VERSION = "0.1.0"
"""The kernel's own version, which ``spec.kernelVersion`` of a module is held against."""
