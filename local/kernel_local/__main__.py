"""The command ``kernel``. Errors are one line on stderr: exit 1 when it failed, 2 for wrong usage, 130 for Ctrl-C."""

import sys


def main() -> None:
    """Runs the command line."""
    try:
        from kernel_local.cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
