"""What Envoy is started with: environment variables of their own, so that no secret is needed to render a bootstrap.

The ports, the breaker's numbers and the directory are the gateway's too (``kernel_gateway.settings``) and have the same
names and defaults.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from kernel_gateway.settings import SettingsError


class EnvoySettings(BaseSettings):
    """Field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    gateway_https_host: str = "0.0.0.0"  # noqa: S104 - clients come from outside
    gateway_https_port: int = Field(8443, ge=1, le=65535)
    gateway_envoy_admin_port: int = Field(9901, ge=1, le=65535)
    """Envoy's own interface, on 127.0.0.1 only."""
    gateway_tls_certificate: Path = Path("/etc/platform-kernel/tls/tls.crt")
    gateway_tls_key: Path = Path("/etc/platform-kernel/tls/tls.key")
    """Both are read again when the directory of the certificate changes."""
    gateway_trusted_hops: int = Field(0, ge=0, le=16)
    """Proxies in front of Envoy whose x-forwarded-for is believed."""
    gateway_access_log: Path | Literal["stdout"] = "stdout"

    gateway_port: int = Field(8080, ge=1, le=65535)
    gateway_decision_port: int = Field(8081, ge=1, le=65535)
    gateway_envoy_directory: Path = Path("/var/run/platform-kernel/envoy")
    cb_failures: int = Field(5, ge=1, le=1000)
    cb_window_sec: float = Field(30, gt=0)
    cb_open_sec: float = Field(60, gt=0)
    local_rate_per_sec: int = Field(10_000, ge=1)


def load() -> EnvoySettings:
    """Raises SettingsError, which names each variable that is wrong."""
    try:
        return EnvoySettings()
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError("; ".join(problems)) from None
