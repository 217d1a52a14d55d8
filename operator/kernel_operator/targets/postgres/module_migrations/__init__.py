"""SQL migrations of a module: a stranger's text, run with the rights of one schema, once.

``reading`` checks the text, ``history`` decides what is to be run, ``login`` opens and closes the
module's migrator, ``runner`` puts them together. What must be true in the database afterwards is
made and checked there, by functions in the schema ``kernel_migrations``.
"""

from kernel_operator.targets.postgres.module_migrations.login import close_abandoned
from kernel_operator.targets.postgres.module_migrations.runner import migrate_module

__all__ = ["close_abandoned", "migrate_module"]
