"""The commands. Each one is a few lines: what it does lives in the modules it imports when it runs, so that ``--help``
does not wait for them."""

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="kernel",
    help="The embedded platform: real servers as child processes, in one data directory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="KERNEL_DATA", show_default=False, help="Data directory (default: below ~/.local/state)."
    ),
]
Rest = Annotated[list[str] | None, typer.Argument(show_default=False)]
_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


class Cluster(StrEnum):
    """Where the resources live."""

    embedded = "embedded"
    current = "current"


@app.command()
def up(
    data: Data = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the kept data away first.")] = False,
    cluster: Annotated[
        Cluster | None,
        typer.Option(help="Our own API server, or the cluster of the current kubeconfig.", show_default="embedded"),
    ] = None,
) -> None:
    """Start everything and return; it keeps running. Harmless when it runs already."""
    from kernel_local import commands

    _finish(lambda: commands.up(_site(data, anew=fresh), fresh=fresh, cluster=cluster.value if cluster else None))


@app.command()
def down(
    data: Data = None,
    delete_data: Annotated[bool, typer.Option("--delete-data", help="Remove the data too.")] = False,
) -> None:
    """Stop everything, also what a killed command left. Data is kept."""
    from kernel_local import commands

    _finish(lambda: commands.down(_site(data), delete_data=delete_data))


@app.command()
def status(data: Data = None) -> None:
    """Show each part: state, process, address, memory, uptime. Exit 1 unless all of them run."""
    from kernel_local import commands

    _finish(lambda: commands.status(_site(data)))


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="A part, as in `kernel status`.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing what comes.")] = False,
    data: Data = None,
) -> None:
    """Print a part's log."""
    from kernel_local import commands

    _finish(lambda: commands.logs(_site(data), name, follow=follow))


@app.command()
def env(data: Data = None) -> None:
    """Print the administrator's connection variables: eval "$(kernel env)"."""
    from kernel_local import commands

    _finish(lambda: commands.env(_site(data)))


@app.command(context_settings=_PASS_ON)
def psql(rest: Rest = None, data: Data = None) -> None:
    """Run psql as the administrator on the database platform. Its own options follow."""
    from kernel_local import commands

    _finish(lambda: commands.psql(_site(data), rest or []))


@app.command(context_settings=_PASS_ON)
def kubectl(rest: Rest = None, data: Data = None) -> None:
    """Run kubectl as the administrator of the platform's cluster. Its own options follow."""
    from kernel_local import commands

    _finish(lambda: commands.kubectl(_site(data), rest or []))


@app.command()
def demo(data: Data = None) -> None:
    """Start the platform, apply the examples, and ask every system whether what they promise is there."""
    from kernel_local import commands

    _finish(lambda: commands.demo(_site(data)))


def _site(data: Path | None, *, anew: bool = False) -> Any:
    from kernel_local import paths
    from kernel_local.site import Site

    return Site(data or paths.default_data(), anew=anew)


def _finish(work: Callable[[], int]) -> None:
    """Ends the process with the command's status, or with one line about what went wrong."""
    from kernel_local.errors import PlatformError

    try:
        code = work()
    except PlatformError as error:
        print(f"kernel: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        code = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    raise typer.Exit(code)
