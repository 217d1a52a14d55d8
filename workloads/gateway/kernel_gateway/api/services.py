"""What handlers work with; one object a process, at ``request.app.state.services``."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg
from fastapi import Request

from kernel_gateway.api.background import Background
from kernel_gateway.api.health import Health
from kernel_gateway.decision.decider import Decider
from kernel_gateway.decision.rights import Rights
from kernel_gateway.decision.valkey import Valkey
from kernel_gateway.login.mail import MailQueue
from kernel_gateway.login.password import PasswordHashing
from kernel_gateway.login.tenant_resources import TenantResources
from kernel_gateway.settings import Settings
from kernel_gateway.tokens.holder import KeyHolder

if TYPE_CHECKING:
    from kernel_gateway.events.kafka import Kafka


@dataclass(frozen=True, slots=True)
class Services:
    """``tenants`` is None where no way to the Kubernetes API was given: nobody can register then. ``kafka`` is None
    where no brokers were given: nothing can be done with dead letters and consumer groups then."""

    settings: Settings
    pool: asyncpg.Pool
    valkey: Valkey
    keys: KeyHolder
    decider: Decider
    rights: Rights
    passwords: PasswordHashing
    mail: MailQueue
    health: Health
    tenants: TenantResources | None = None
    kafka: "Kafka | None" = None
    background: Background = field(default_factory=Background)


def services(request: Request) -> Services:
    """A FastAPI dependency."""
    found: Services = request.app.state.services
    return found
