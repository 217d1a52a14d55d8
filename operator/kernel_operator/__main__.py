"""The operator's process: ``python -m kernel_operator``."""

import asyncio
import logging
import signal
import sys

import kopf

from kernel_common import logs
from kernel_operator.kube import LoginMissing, find_login
from kernel_operator.settings import Settings, SettingsError, load


def main() -> None:
    """Run the operator; exit 2 when its settings or its login are wrong, 1 when it can't run."""
    try:
        settings = load()
        find_login(kopf.OperatorSettings())  # Kopf would go on without one, and do nothing
    except (SettingsError, LoginMissing) as error:
        print(f"kernel-operator: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    logs.configure(settings.log_level, as_json=settings.log_json)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # two lines an event say nothing that ours don't
    try:
        asyncio.run(_run(settings))
    except Exception:
        logging.getLogger("kernel_operator").exception("stopped")
        sys.exit(1)


async def _run(settings: Settings) -> None:
    from kernel_operator.app import run

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop)


if __name__ == "__main__":
    main()
