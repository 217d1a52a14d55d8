"""Log lines on standard error: time, name, text. Never a statement: it may hold a password."""

import sys
import time


def log(line: str) -> None:
    """Writes one line."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} clickhouse (development): {line}", file=sys.stderr, flush=True)  # noqa: T201
