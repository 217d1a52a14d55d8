"""The command line: ``kernel-data serve | openapi``."""

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable

from kernel_common import logs
from kernel_data.settings import Settings, SettingsError, load


def main(arguments: list[str] | None = None) -> None:
    """Exit 2 when settings or arguments are wrong, 1 when the process failed; one line says why."""
    parser = argparse.ArgumentParser("kernel-data", description="The analytics read API of Platform-Kernel.")
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("serve", help="serve the API").set_defaults(command=_serve)
    commands.add_parser("openapi", help="print the OpenAPI document of the API").set_defaults(command=_openapi)
    command: Callable[[], None] = parser.parse_args(arguments).command
    try:
        command()
    except SettingsError as error:
        print(f"kernel-data: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except Exception:
        logging.getLogger("kernel_data").exception("stopped")
        sys.exit(1)


def _serve() -> None:
    settings = load()
    logs.configure(settings.log_level, as_json=settings.log_json)
    import uvloop

    uvloop.run(_until_told(settings))


async def _until_told(settings: Settings) -> None:
    from kernel_data.serve import run

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop)


def _openapi() -> None:
    from kernel_data.app import create_app

    print(json.dumps(create_app().openapi(), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
