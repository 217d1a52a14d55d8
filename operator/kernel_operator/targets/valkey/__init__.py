"""The Valkey target: limits, rights, routes and memberships, each with a version that readers watch."""

from kernel_operator.targets.valkey.target import ValkeyTarget

__all__ = ["ValkeyTarget"]
