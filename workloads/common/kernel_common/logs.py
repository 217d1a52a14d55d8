"""JSON logs, one object a line, on standard error.

What a record carries in ``extra=about(tenant=..., module=...)`` becomes fields of its own. A URL with
credentials in it is shown without its password wherever it stands in a message or in a traceback:
drivers put connection strings into their errors.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime

_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<user>[^\s:/@]*):[^\s@/]+@", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """``text`` with the password of every URL in it replaced by ``***``."""
    return _CREDENTIALS.sub(r"\g<scheme>\g<user>:***@", text)


def about(**fields: str | int | float) -> dict[str, dict[str, str | int | float]]:
    """The ``extra`` of a log call that gives its line these fields."""
    return {"fields": fields}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: ts, level, logger, msg, its fields, and error."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": without_passwords(record.getMessage()),
        }
        entry.update(
            (name, without_passwords(value) if isinstance(value, str) else value)
            for name, value in getattr(record, "fields", {}).items()
        )
        if record.exc_info:
            entry["error"] = without_passwords(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Formats a record for a person's terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return without_passwords(super().format(record))


def configure(level: str = "info", *, as_json: bool = True) -> None:
    """Send every logger's records to standard error, and nothing anywhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
