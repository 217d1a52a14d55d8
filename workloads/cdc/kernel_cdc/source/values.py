"""Values of columns: PostgreSQL's text, as bytes of JSON.

Numbers and jsonb are JSON already and pass as they are, so none loses a digit. The rest are strings: numeric too,
because readers would round it. Instants are ISO 8601 in UTC with microseconds; those outside the years 1 to 9999
(``infinity``, BC) keep PostgreSQL's text, as do types that no model can declare.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from json.encoder import encode_basestring

Encode = Callable[[bytes], bytes]

EPOCH = datetime(2000, 1, 1)
"""PostgreSQL counts from here, in UTC."""
EPOCH_SECONDS = 946_684_800
"""The same in Unix time."""
_MICROSECOND = timedelta(microseconds=1)
_INSTANT = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\+00")
_UTC, _SPACE, _NINE = b"+00", 32, 57


def text(value: bytes) -> bytes:
    return encode_basestring(value.decode()).encode()


def _quoted(value: bytes) -> bytes:
    """For types whose text needs no escaping."""
    return b'"%b"' % value


def _boolean(value: bytes) -> bytes:
    return b"true" if value == b"t" else b"false"


def _float(value: bytes) -> bytes:
    """NaN and the infinities are no JSON numbers, and what is read as the integer 0 has no sign."""
    if value == b"-0":
        return b"-0.0"
    return value if value[-1] <= _NINE else b'"%b"' % value


def instant(value: bytes) -> bytes:
    if len(value) == 29 and value[10] == _SPACE and value[26:] == _UTC:
        return b'"%bT%bZ"' % (value[:10], value[11:26])
    found = _INSTANT.fullmatch(value)
    if found is None:
        return b'"%b"' % value
    day, second, fraction = found.groups()
    return b'"%bT%b.%bZ"' % (day, second, (fraction or b"").ljust(6, b"0"))


def microseconds(value: bytes | None) -> int | None:
    """A timestamptz as microseconds since 2000; None when it has none."""
    found = _INSTANT.fullmatch(value or b"")
    if found is None:
        return None
    try:
        moment = datetime.fromisoformat(found[0][:-3].decode())
    except ValueError:
        return None
    return (moment - EPOCH) // _MICROSECOND


def iso(since_2000: int) -> bytes:
    """The instant of so many microseconds since 2000."""
    return (EPOCH + timedelta(microseconds=since_2000)).isoformat(timespec="microseconds").encode() + b"Z"


_ENCODERS: dict[int, Encode | None] = {
    16: _boolean,
    20: None,  # bigint
    21: None,
    23: None,
    114: None,  # json
    3802: None,  # jsonb
    700: _float,
    701: _float,
    1082: _quoted,  # date
    1184: instant,
    1700: _quoted,  # numeric
    2950: _quoted,  # uuid
}
"""By the type's oid. None: the text is JSON."""


def encoder(type_oid: int) -> Encode | None:
    """What turns a value of the type into JSON; None when it is JSON as it comes."""
    return _ENCODERS.get(type_oid, text)
