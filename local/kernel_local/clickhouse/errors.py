"""ClickHouse's errors: the codes this server raises itself, the engine's own, and their HTTP statuses."""

import re

SYNTAX_ERROR = 62
BAD_ARGUMENTS = 36
NOT_IMPLEMENTED = 48
TIMEOUT_EXCEEDED = 159
READONLY = 164
UNKNOWN_USER = 192
TOO_MANY_SIMULTANEOUS_QUERIES = 202
CANNOT_DECOMPRESS = 271
TOO_MANY_BYTES = 307
SESSION_NOT_FOUND = 372
SETTING_CONSTRAINT_VIOLATION = 452
UNKNOWN_QUERY_PARAMETER = 456
ACCESS_ENTITY_ALREADY_EXISTS = 493
ACCESS_STORAGE_READONLY = 495
ACCESS_DENIED = 497
UNKNOWN_ROLE = 511
AUTHENTICATION_FAILED = 516
UNKNOWN_ROW_POLICY = 523
SESSION_IS_LOCKED = 373
UNKNOWN_EXCEPTION = 1002

NAMES = {value: name for name, value in list(globals().items()) if isinstance(value, int) and name.isupper()}

# The table of ClickHouse's own src/Server/HTTP/exceptionCodeToHTTPStatus.cpp, by code.
_BAD_REQUEST = (
    *(6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123),
    *(167, 168, 223, 321, 376, 427, 441, 675, 676),
)
_NOT_FOUND = (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511)
_STATUS = {
    **dict.fromkeys(_BAD_REQUEST, 400),
    **dict.fromkeys(_NOT_FOUND, 404),
    **dict.fromkeys((192, 193, 497, 512, 516), 403),
    194: 401,
    229: 413,
    381: 411,
    779: 415,
    TOO_MANY_BYTES: 413,
    NOT_IMPLEMENTED: 501,
    TIMEOUT_EXCEEDED: 408,
    209: 503,
    76: 503,
    439: 503,
}
_ENGINE = re.compile(r"Code: (\d+)\. DB::Exception: (.*)", re.S)


class ClickHouseError(Exception):
    """An error as a client sees it: `code` is ClickHouse's number, `message` the text after `DB::Exception:`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status ClickHouse gives this code."""
        return _STATUS.get(self.code, 500)

    @property
    def body(self) -> bytes:
        """The text of the response, ending in a line feed."""
        return f"Code: {self.code}. DB::Exception: {self.message}\n".encode(errors="replace")


def error(code: int, message: str) -> ClickHouseError:
    """An error of this server's own, with the code's name behind the message as ClickHouse writes it."""
    return ClickHouseError(code, f"{message} ({NAMES[code]})")


def denied(principal: str, reason: str) -> ClickHouseError:
    """`ACCESS_DENIED` for a principal; `reason` says what is refused."""
    return error(ACCESS_DENIED, f"{principal}: Not enough privileges. {reason}")


def from_engine(failure: BaseException) -> ClickHouseError:
    """Turns what chdb raises (a RuntimeError with ClickHouse's text) into a ClickHouseError."""
    text = str(failure).strip()
    if found := _ENGINE.search(text):
        return ClickHouseError(int(found[1]), found[2])
    return ClickHouseError(UNKNOWN_EXCEPTION, f"{text or type(failure).__name__} (UNKNOWN_EXCEPTION)")
