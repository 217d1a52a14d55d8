"""Makes kernel_gateway/events/wire from events.proto:  .venv/bin/python workloads/gateway/proto/generate.py

The result is committed, so that nothing has to be generated to install or run the gateway; a test makes it anew and
compares.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
DEFINITIONS = "platformkernel/events/v1"
PACKAGE = "kernel_gateway/events/wire"
_QUIET = "# ruff: noqa\n# mypy: ignore-errors\n# fmt: off\n"


def generate() -> dict[str, str]:
    """The files of the package by name."""
    with tempfile.TemporaryDirectory() as into:
        arguments = [
            "protoc",
            f"-I{PACKAGE}={HERE / DEFINITIONS}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={into}",
            f"--pyi_out={into}",
            f"{PACKAGE}/events.proto",
        ]
        if protoc.main(arguments) != 0:
            sys.exit(1)
        return {path.name: _QUIET + path.read_text() for path in sorted((Path(into) / PACKAGE).iterdir())}


if __name__ == "__main__":
    for name, text in generate().items():
        (HERE.parent / PACKAGE / name).write_text(text)
