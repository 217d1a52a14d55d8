"""``kernel-cdc snapshot``: asks the source, wherever it runs, to read tables again."""

from collections.abc import Sequence

from kernel_cdc.settings import SettingsError, SourceSettings
from kernel_cdc.source.ledger import Ledger
from kernel_common.database import open_pool


async def request(settings: SourceSettings, models: Sequence[str] | None) -> list[str]:
    """``models``: "module.model"; None for all. Returns the tables that are due now.

    Raises SettingsError, when one is not captured, or DatabaseUnavailable.
    """
    try:
        pool = await open_pool(settings.database_url.get_secret_value(), application="kernel-cdc", max_size=1)
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL: {error}") from None
    try:
        due = await Ledger(pool).requested(None if models is None else [f"module_{model}" for model in models])
    finally:
        pool.terminate()
    if missing := sorted(set(models or ()) - {table.removeprefix("module_") for table in due}):
        raise SettingsError(f"--table: {missing[0]} is not a model that is captured")
    return sorted(due)
