"""JSON logs, one object a line, on standard error.

What a record carries in ``extra`` becomes a field of its own (``tenant``, ``module``, ...). A URL
with credentials in it is shown without its password wherever it stands in a message or in a
traceback: drivers put connection strings into their errors.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<user>[^\s:/@]*):[^\s@/]+@", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """``text`` with the password of every URL in it replaced by ``***``."""
    return _CREDENTIALS.sub(r"\g<scheme>\g<user>:***@", text)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: ts, level, logger, msg, its extras, and error."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": without_passwords(record.getMessage()),
        }
        entry.update(
            (name, value if isinstance(value, int | float | bool) else without_passwords(str(value)))
            for name, value in vars(record).items()
            if name not in _STANDARD and not name.startswith("_") and value is not None
        )
        if record.exc_info:
            entry["error"] = without_passwords(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def configure(level: str = "info", *, as_json: bool = True) -> None:
    """Send every logger's records to standard error, and nothing anywhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
