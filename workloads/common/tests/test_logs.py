"""A log line is one JSON object, carries its context, and shows no password."""

import json
import logging

import pytest

from kernel_common.logs import JsonFormatter, TextFormatter, about, without_passwords


def line(message: str, *args: object, **extra: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "t", "levelname": "INFO", "msg": message, "args": args, **extra})
    loaded: dict[str, object] = json.loads(JsonFormatter().format(record))
    return loaded


def test_what_a_line_is_about_are_fields_of_their_own() -> None:
    assert line("made %d", 3, **about(tenant="acme", module="crm", count=3)) | {"ts": ""} == {
        "ts": "",
        "level": "info",
        "logger": "t",
        "msg": "made 3",
        "tenant": "acme",
        "module": "crm",
        "count": 3,
    }


@pytest.mark.parametrize(
    "text",
    [
        "postgres://kernel_operator:s3cret@db:5432/platform refused",
        "redis://:s3cret@cache/0",
        "could not open HTTP://u:s3cret@host",
    ],
)
def test_passwords_in_urls_are_not_shown(text: str) -> None:
    assert "s3cret" not in without_passwords(text)
    assert "s3cret" not in str(line("%s", text))
    assert "s3cret" not in str(line("x", **about(url=text)))


def test_a_traceback_shows_no_password() -> None:
    try:
        raise ValueError("postgres://u:s3cret@db/x")
    except ValueError as error:
        details = (type(error), error, error.__traceback__)
    shown = line("failed", exc_info=details)
    assert "s3cret" not in str(shown)
    record = logging.makeLogRecord({"msg": "failed", "exc_info": details})
    assert "s3cret" not in TextFormatter("%(message)s").format(record)
    assert "ValueError" in str(shown["error"])
