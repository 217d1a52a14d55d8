"""The command line: ``kernel-cdc source``, ``kernel-cdc sink`` and ``kernel-cdc snapshot``."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

from kernel_cdc.settings import KafkaSettings, SettingsError, SinkSettings, SourceSettings, load
from kernel_common import logs
from kernel_common.database import DatabaseUnavailable

Work = Callable[[asyncio.Event], Awaitable[None]]


def main(arguments: list[str] | None = None) -> None:
    """Exit 2 when settings or arguments are wrong, 1 when the process failed; one line says why."""
    parser = argparse.ArgumentParser("kernel-cdc", description="Change data capture of Platform-Kernel.")
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("source", help="PostgreSQL's log to Kafka").set_defaults(command=_source)
    commands.add_parser("sink", help="Kafka to ClickHouse").set_defaults(command=_sink)
    snapshot = commands.add_parser("snapshot", help="have the source read tables again")
    snapshot.add_argument("--table", action="append", metavar="MODULE.MODEL", help="this one; repeatable; default: all")
    snapshot.set_defaults(command=_snapshot)
    given = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], tuple[KafkaSettings, Work]] = given.command
    try:
        settings, work = command(given)
        logs.configure(settings.log_level, as_json=settings.log_json)
        import uvloop

        uvloop.run(_until_told(work))
    except SettingsError as error:
        print(f"kernel-cdc: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except DatabaseUnavailable as error:
        print(f"kernel-cdc: PostgreSQL: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except Exception:
        logging.getLogger("kernel_cdc").exception("stopped")
        sys.exit(1)


def _source(_: argparse.Namespace) -> tuple[KafkaSettings, Work]:
    settings = load(SourceSettings)

    async def work(stop: asyncio.Event) -> None:
        from kernel_cdc.source.source import Source

        await Source(settings).run(stop)

    return settings, work


def _sink(_: argparse.Namespace) -> tuple[KafkaSettings, Work]:
    settings = load(SinkSettings)

    async def work(stop: asyncio.Event) -> None:
        from kernel_cdc.sink.sink import Sink

        await Sink(settings).run(stop)

    return settings, work


def _snapshot(given: argparse.Namespace) -> tuple[KafkaSettings, Work]:
    """Only says what is due; the source does it within seconds."""
    settings = load(SourceSettings)

    async def work(_: asyncio.Event) -> None:
        from kernel_cdc.source.request import request

        for table in await request(settings, given.table):
            print(table)  # noqa: T201

    return settings, work


async def _until_told(work: Work) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await work(stop)


if __name__ == "__main__":
    main()
