"""Which migrations are still to be run, given those that were."""

import re
from collections.abc import Mapping, Sequence

from kernel_operator.desired import Migration
from kernel_operator.targets.postgres.session import Refused

MAX_FILES = 500

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,248}\.sql")


def in_order(migrations: Sequence[Migration]) -> list[Migration]:
    """``migrations`` by name, byte for byte. Raises Refused for names that can't be used."""
    names = [migration.name for migration in migrations]
    if len(names) > MAX_FILES:
        raise Refused(
            "MigrationName", f"spec.migrations: {len(names)} files, at most {MAX_FILES} are allowed; join some"
        )
    for name in names:
        if not _NAME.fullmatch(name):
            raise Refused("MigrationName", f"spec.migrations: {name[:100]!r} must be a name such as 0001_contacts.sql")
        if names.count(name) > 1:
            raise Refused("MigrationName", f"spec.migrations: {name} is there twice; give each file its own name")
    return sorted(migrations, key=lambda migration: migration.name)


def pending(applied: Mapping[str, str], migrations: Sequence[Migration]) -> list[Migration]:
    """Those of ``migrations`` that are not ``applied`` (name to checksum), in order.

    Raises Refused when the past was changed: an applied file has another text, a new one stands
    before an applied one, or there is a new one while an applied one is gone. A list that merely
    ends earlier is an earlier version, for which nothing is to be done.
    """
    ordered = in_order(migrations)
    for migration in ordered:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise Refused(
                "MigrationChanged",
                f"spec.migrations: {migration.name} was changed after it was applied; restore it and put the change "
                "into a new file",
            )
    new = [migration for migration in ordered if migration.name not in applied]
    if not new or not applied:
        return new
    last = max(applied)
    if new[0].name < last:
        raise Refused(
            "MigrationOutOfOrder",
            f"spec.migrations: {new[0].name} stands before {last}, which was applied already; give it a later name",
        )
    missing = sorted(set(applied) - {migration.name for migration in ordered})
    if missing:
        raise Refused(
            "MigrationMissing",
            f"spec.migrations: {missing[0]} was applied and is not there any more; put it back before adding files",
        )
    return new
