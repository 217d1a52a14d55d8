"""Everything the process is told from outside, in one place: environment variables, read once at start."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Base64Bytes, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_SCHEMES = {"clickhouse_url": ("http", "https"), "valkey_url": ("redis", "rediss")}


class SettingsError(Exception):
    """A variable is missing or wrong; the message names each one, never its value."""


class Settings(BaseSettings):
    """Field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    clickhouse_url: SecretStr
    """http(s)://host:port: without a user, because each question is asked as a tenant's own"""
    clickhouse_database: str = Field("analytics", pattern=r"^[a-z][a-z0-9_]*$")
    valkey_url: SecretStr
    """redis(s)://kernel_data:...@host:port/0; it says how fresh a table is"""
    kernel_master_key: Annotated[Base64Bytes, Field(min_length=32)] = Field(repr=False)
    """Base64 of at least 32 bytes; the passwords of the tenants' ClickHouse users are derived from it."""

    data_host: str = "0.0.0.0"  # noqa: S104 - the gateway and probes come from outside the container
    data_port: int = Field(8080, ge=0, le=65535)
    data_query_sec: int = Field(10, ge=1, le=60)
    """What one question may take in ClickHouse: seconds,"""
    data_query_memory_mb: int = Field(1024, ge=16)
    """memory,"""
    data_query_groups: int = Field(1_000_000, ge=1000)
    """and groups before they are sorted and cut."""
    data_connections: int = Field(32, ge=1, le=1000)
    """Questions at once, of all tenants."""
    data_tenant_connections: int = Field(4, ge=1, le=1000)
    """Questions at once, of one tenant; more wait for a moment."""
    data_shutdown_delay: float = Field(5.0, ge=0)
    """Seconds between SIGTERM, when /ready turns false, and the end of listening."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = True

    @field_validator("clickhouse_url", "valkey_url")
    @classmethod
    def _is_url(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        schemes = _SCHEMES[info.field_name or ""]
        try:
            parts = urlsplit(value.get_secret_value())
            right = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number
            right = False
        if not right:
            raise ValueError(f"must be a URL, {schemes[0]}://host:port")
        return value


def load() -> Settings:
    """The settings of this process. Raises SettingsError."""
    try:
        return Settings()
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError("; ".join(problems)) from None
