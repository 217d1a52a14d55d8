"""The command line: ``kernel-gateway serve | keys | owner | envoy | openapi``."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kernel_common import logs
from kernel_gateway.settings import Settings, SettingsError, load
from kernel_gateway.tokens.keyring import KeysError

Command = Callable[[argparse.Namespace], None]


class CommandError(Exception):
    """Said in one line; the exit code is 1."""


def main(arguments: list[str] | None = None) -> None:
    """Exit 2 when settings or arguments are wrong, 1 when the command fails; one line says why."""
    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    try:
        command(parsed)
    except SettingsError as error:
        _end(2, str(error))
    except (CommandError, KeysError) as error:
        _end(1, str(error))
    except OSError as error:
        _end(1, os.strerror(error.errno) if error.errno else "the system refused")


def _end(code: int, message: str) -> None:
    print(f"kernel-gateway: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kernel-gateway", description="The gateway of Platform-Kernel.")
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("serve", help="serve decisions, login and people").set_defaults(command=_serve)
    commands.add_parser("openapi", help="print the OpenAPI document of the API").set_defaults(command=_openapi)

    keys = commands.add_parser("keys", help="the keys that sign access tokens").add_subparsers(required=True)
    rotate = keys.add_parser("rotate", help="add a key, remove those whose tokens have all expired")
    rotate.set_defaults(command=_rotate)
    shown = keys.add_parser("list", help="the keys there are, oldest first; * signs")
    shown.set_defaults(command=_list)
    for each in (rotate, shown):
        each.add_argument("--directory", type=Path, help="default: GATEWAY_KEYS_DIRECTORY")

    owner = commands.add_parser("owner", help="the platform's own people").add_subparsers(required=True)
    create = owner.add_parser(
        "create",
        help="make a user a platform owner",
        description="The password of a new account is read from KERNEL_OWNER_PASSWORD, or from standard input.",
    )
    create.add_argument("--email", required=True)
    create.set_defaults(command=_create_owner)

    envoy = commands.add_parser("envoy", help="Envoy's configuration").add_subparsers(required=True)
    bootstrap = envoy.add_parser("bootstrap", help="fill GATEWAY_ENVOY_DIRECTORY, print the path to start Envoy with")
    bootstrap.set_defaults(command=_bootstrap)
    return parser


def _serve(_: argparse.Namespace) -> None:
    settings = load()
    logs.configure(settings.log_level, as_json=settings.log_json)
    import uvloop

    try:
        uvloop.run(_until_told(settings))
    except SettingsError:
        raise
    except Exception:
        logging.getLogger("kernel_gateway").exception("stopped")
        sys.exit(1)


async def _until_told(settings: Settings) -> None:
    from kernel_gateway.serve import run

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop)


def _openapi(_: argparse.Namespace) -> None:
    from kernel_gateway.api.app import document

    _print(json.dumps(document(), indent=2))


def _rotate(arguments: argparse.Namespace) -> None:
    from kernel_gateway.tokens.keyring import rotate

    lifetime = int(os.environ.get("JWT_ACCESS_TTL_SEC") or 900)
    _print(rotate(_directory(arguments), time.time(), lifetime))


def _list(arguments: argparse.Namespace) -> None:
    from kernel_gateway.tokens.keyring import KeyRing

    ring, now = KeyRing.load(_directory(arguments)), time.time()
    signer = ring.signer(now).kid
    for kid in ring.kids():
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(kid.partition("-")[0])))
        _print(f"{'*' if kid == signer else ' '} {kid}  {made}")


def _directory(arguments: argparse.Namespace) -> Path:
    """The command needs no other setting, so that a job that rotates keys holds no other secret."""
    given: Path | None = arguments.directory
    return given or Path(
        os.environ.get("GATEWAY_KEYS_DIRECTORY") or Settings.model_fields["gateway_keys_directory"].default
    )


def _create_owner(arguments: argparse.Namespace) -> None:
    from kernel_gateway.login import owner

    logging.disable(logging.WARNING)
    settings = load()
    try:
        _print(asyncio.run(owner.create(settings, arguments.email, _password)))
    except owner.OwnerError as error:
        raise CommandError(str(error)) from None


def _password() -> str:
    """Never from the command line, which others can read."""
    given = os.environ.get("KERNEL_OWNER_PASSWORD")
    if given is not None:
        return given
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass("password of the new account: ")
    return sys.stdin.readline().rstrip("\n")


def _bootstrap(_: argparse.Namespace) -> None:
    from kernel_gateway.envoy.bootstrap import lay_out
    from kernel_gateway.envoy.settings import load as load_envoy

    _print(str(lay_out(load_envoy())))


def _print(text: str) -> None:
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
