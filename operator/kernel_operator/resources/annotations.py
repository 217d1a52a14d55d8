"""Annotations by which a person agrees to what can't be undone."""

ADOPT = "platform-kernel.io/adopt"
"""On a Tenant: the tenant id whose retained data the new object takes over."""

GROW_PARTITIONS = "platform-kernel.io/grow-partitions"
"""On a KernelModule: more partitions for a topic that exists."""

GROW_PARTITIONS_VALUE = "breaks-key-order"

CONFIRM_DELETION = "platform-kernel.io/confirm-deletion"
"""On a KernelModule with deletionPolicy Delete: the slug whose tables may be dropped."""
