"""Names that belong to the platform. The CRDs hold the same lists; a test compares them."""

_NOBODYS_SLUGS = """
admin analytics api audit auth cdc data event events gateway health iam kernel module modules notification
notifications operator permissions platform public roles settings system tenant tenants users ws
"""
_KERNEL_SLUGS = "billing files flags money notify"
_KERNEL_PREFIXES = """
admin analytics audit auth billing data events files flags health holds invitations members modules money notifications
notify permissions roles settings tenants transactions transfers users wallets ws
"""
_PLATFORM_COLUMNS = "id tenant_id created_at updated_at deleted_at record_id is_deleted idempotency_key"
_POSTGRESQL_COLUMNS = "cmax cmin ctid tableoid xmax xmin"

KERNEL_SCOPE = "@kernel/"

RESERVED_SLUGS = frozenset(_NOBODYS_SLUGS.split())
"""No module may take these: the platform itself uses them."""

KERNEL_SLUGS = frozenset(_KERNEL_SLUGS.split())
"""Only modules of the scope @kernel may take these."""

KERNEL_PREFIXES = frozenset(_KERNEL_PREFIXES.split())
"""First parts of a path after /api/v1/ that only modules of the scope @kernel may take."""

RESERVED_COLUMNS = frozenset([*_PLATFORM_COLUMNS.split(), *_POSTGRESQL_COLUMNS.split()])
"""Columns that every table has already."""
