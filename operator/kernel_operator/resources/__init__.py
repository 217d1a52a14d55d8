"""The two resources as typed, checked values.

The rules are those of ``crds/``: what the API server accepts, these models accept. They are checked
again here because a stored object may be older than the CRD that serves it.
"""

from kernel_operator.resources.invalid import InvalidResource
from kernel_operator.resources.module import KernelModule, ModuleSpec
from kernel_operator.resources.tenant import Tenant, TenantSpec

__all__ = [
    "InvalidResource",
    "KernelModule",
    "ModuleSpec",
    "Tenant",
    "TenantSpec",
]
