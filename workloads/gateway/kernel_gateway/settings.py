"""Everything the gateway is told from outside, in one place: environment variables, read once at start."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """A variable is missing or wrong; the message names each one, never its value."""


class Settings(BaseSettings):
    """Field names are the variables' names in lower case. Passwords travel inside the URLs."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: SecretStr
    """postgres://kernel_gateway:...@host:port/platform"""
    valkey_url: SecretStr
    """redis(s)://kernel_gateway:...@host:port/0"""
    kernel_master_key: Annotated[Base64Bytes, Field(min_length=32)] = Field(repr=False)
    """Base64 of at least 32 bytes; secrets of second factors are encrypted under a key derived from it."""

    gateway_host: str = "0.0.0.0"  # noqa: S104 - Envoy and probes come from outside the container
    gateway_port: int = Field(8080, ge=0, le=65535)
    """/auth, roles, members, JWKS, health and metrics: what Envoy proxies to the gateway itself"""
    gateway_decision_port: int = Field(8081, ge=0, le=65535)
    """what Envoy asks about each request, on 127.0.0.1 only"""
    gateway_shutdown_timeout: float = Field(30.0, ge=0)
    """Seconds that requests under way may take after SIGTERM."""
    gateway_keys_directory: Path = Path("/etc/platform-kernel/keys")
    """The ES256 signing keys, a PEM file each; `kernel-gateway keys rotate` adds one."""
    gateway_envoy_directory: Path = Path("/var/run/platform-kernel/envoy")
    """Where Envoy's configuration is written; Envoy watches it."""
    gateway_upstream_overrides: dict[str, str] = Field(default_factory=dict)
    """For development: JSON of module slug to host:port, where a module's service runs outside the cluster."""
    gateway_cors_origins: Annotated[list[str], Field(default_factory=list)]
    """JSON list of origins (https://app.example) whose pages may call; none by default."""
    gateway_public_url: str = "https://localhost:8443"
    """How browsers reach us: issuer of tokens, and the start of links in mail."""

    gateway_grpc_port: int = Field(50050, ge=0, le=65535)
    """the gRPC EventService; 0: a free one"""
    kafka_brokers: str = ""
    """host:port, comma separated; without it events are published all the same, the rest of their API answers 503"""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "SASL_SSL"
    kafka_sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = "SCRAM-SHA-256"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")

    jwt_access_ttl_sec: int = Field(900, ge=1)
    jwt_refresh_ttl_sec: int = Field(604_800, ge=60)
    refresh_grace_sec: float = Field(10, ge=0)
    refresh_reuse_revokes_family: bool = False
    rbac_cache_ttl_sec: int = Field(300, ge=1)
    cb_failures: int = Field(5, ge=1)
    cb_window_sec: float = Field(30, gt=0)
    cb_open_sec: float = Field(60, gt=0)
    local_rate_per_sec: int = Field(10_000, ge=1)
    """Envoy's own token bucket in front of everything."""
    anonymous_requests_per_minute: int = Field(120, ge=1)
    """The budget of one client address on routes that need no token."""

    gateway_shutdown_delay: float = Field(5.0, ge=0)
    """Seconds between SIGTERM, when /ready turns false, and the end of listening: time for others to see it."""
    gateway_registration_parent: str | None = None
    """The tenant (tier owner or partner) below which people register tenants of their own; unset: nobody can."""
    kubernetes_url: str | None = None
    """https://host:port of the Kubernetes API, where registered tenants become resources; in a pod: its own cluster"""
    kubernetes_token_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    kubernetes_ca_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    password_memory_kib: int = Field(65_536, ge=64)
    """Argon2id: memory, passes and lanes of one hash. Lower them in tests only."""
    password_passes: int = Field(3, ge=1)
    password_lanes: int = Field(4, ge=1, le=16)
    password_threads: int = Field(2, ge=1)
    """Hashes at once; others wait for them, the event loop never does."""

    smtp_url: SecretStr | None = None
    """smtp(s)://user:password@host:port; without it mails are written to ``mail_directory``"""
    mail_from: str = "no-reply@localhost"
    mail_directory: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = True

    def kafka_client(self) -> dict[str, Any]:
        """How librdkafka is told to connect; empty where no brokers are given. Holds the password."""
        if not self.kafka_brokers:
            return {}
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


def load() -> Settings:
    """The settings of this process. Raises SettingsError."""
    try:
        return Settings()
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError("; ".join(problems)) from None
