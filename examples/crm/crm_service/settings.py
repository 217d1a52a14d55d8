"""What the service is told from outside: environment variables, read once at start."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: SecretStr
    """The login module_crm, as the operator writes it into the Secret beside the KernelModule."""
    crm_host: str = "0.0.0.0"  # noqa: S104 - the gateway and probes come from outside the pod
    crm_port: int = Field(8080, ge=0, le=65535)
    log_level: str = "info"
