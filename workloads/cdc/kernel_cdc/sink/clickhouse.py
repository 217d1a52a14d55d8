"""Inserts and sweeps over ClickHouse's HTTP interface.

Two kinds of failure: the server can't take anything now (``Away``), or it will not take these rows into this table
(``Refused``): a column that it does not have, a value of another type, a table that is not there.
"""

import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from io import BytesIO
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import aiohttp

CONNECT_SECONDS = 3.0
INSERT_SECONDS = 60.0
SWEEP_SECONDS = 200.0
"""Reads the keys of the whole table; less than the five minutes after which Kafka gives our partitions to others."""

_SWEEP = (resources.files("kernel_cdc.sink") / "sweep.sql").read_text()

# A code of the server that speaks of these rows or of their table. Whatever it does not name here is the server's own
# trouble, such as too many parts, no memory, no space: it is waited for.
_OF_THE_TABLE = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        16,  # NO_SUCH_COLUMN_IN_TABLE
        20,  # NUMBER_OF_COLUMNS_DOESNT_MATCH
        25,  # CANNOT_PARSE_ESCAPE_SEQUENCE
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        33,  # CANNOT_READ_ALL_DATA
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        47,  # UNKNOWN_IDENTIFIER
        53,  # TYPE_MISMATCH
        60,  # UNKNOWN_TABLE
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA, such as an unknown field
        130,  # CANNOT_READ_ARRAY_FROM_TEXT
        131,  # TOO_LARGE_STRING_SIZE
        158,  # TOO_MANY_ROWS
        218,  # TABLE_IS_DROPPED
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        376,  # CANNOT_PARSE_UUID
        407,  # DECIMAL_OVERFLOW
        441,  # CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
        467,  # CANNOT_PARSE_BOOL
        497,  # ACCESS_DENIED
        636,  # CANNOT_EXTRACT_TABLE_STRUCTURE
    }
)
_FIELD = re.compile(r"Unknown field found while parsing JSONEachRow format: `?(\w+)")
_TABLE = re.compile(r"[a-z][a-z0-9_]*")
_ERROR = re.compile(r"Code: (\d+)")
_NAME = re.compile(r"\(([A-Z_]{4,60})\)\s*(?:\(version|$)")


class Away(Exception):
    """The server can't take anything now. Fit to show."""


class Refused(Exception):
    """The server will not take these rows into this table. Fit to show: no values."""


class ClickHouse:
    """The writer's connection: ``async with``. Raises ValueError for a URL that is none."""

    def __init__(self, url: str, database: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not _TABLE.fullmatch(database):
            raise ValueError("must be http(s)://user:password@host:port")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._url = f"{parts.scheme}://{host}:{parts.port or (8443 if parts.scheme == 'https' else 8123)}/"
        login = b64encode(f"{unquote(parts.username or 'default')}:{unquote(parts.password or '')}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}
        self._database = database

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, trust_env=False)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._session.close()

    async def insert(self, table: str, lines: Iterable[bytes], token: str) -> None:
        """Returns when the rows are in the table. The same rows with the same token again change nothing.

        Raises Away, Refused.
        """
        arguments = {
            "query": f"INSERT INTO {self._qualified(table)} FORMAT JSONEachRow",
            "insert_deduplicate": "1",
            "insert_deduplication_token": token,
            "input_format_skip_unknown_fields": "0",
            "date_time_input_format": "best_effort",
        }
        await self._post(arguments, b"\n".join(lines), INSERT_SECONDS)

    async def sweep(self, table: str, lsn: int, partitions: int, swept: Collection[int]) -> None:
        """Gives each record of the partitions ``swept`` (of so many) that is older than ``lsn`` a last version.

        Returns when they are in the table; the same again changes nothing. Raises Away, Refused.
        """
        arguments = {
            "param_lsn": str(lsn),
            "param_partitions": str(partitions),
            "param_swept": f"[{','.join(map(str, sorted(swept)))}]",
            "insert_deduplicate": "0",
            # What is moved before FINAL would choose among versions, not among records.
            "optimize_move_to_prewhere_if_final": "0",
        }
        statement = _SWEEP.replace("$table", self._qualified(table))
        await self._post(arguments, statement.encode(), SWEEP_SECONDS)

    def _qualified(self, table: str) -> str:
        if not _TABLE.fullmatch(table):
            raise Refused("no name of a table")
        return f"`{self._database}`.`{table}`"

    async def _post(self, arguments: Mapping[str, str], body: bytes, seconds: float) -> None:
        always = {"async_insert": "0", "wait_end_of_query": "1"}
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.post(
                self._url, params={**arguments, **always}, data=BytesIO(body), timeout=timeout, allow_redirects=False
            ) as answer:
                said = (await answer.read()).decode("utf-8", "replace")
                code = answer.headers.get("X-ClickHouse-Exception-Code")
                if answer.status == 200 and code is None:
                    return
        except TimeoutError:
            raise Away("no answer in time") from None
        except (aiohttp.ClientError, OSError):
            raise Away("can't be reached") from None
        raise _judged(code, said, answer.status)


def _judged(header: str | None, body: str, status: int) -> Away | Refused:
    found = _ERROR.search(body)
    code = header or (found[1] if found else "")
    name = _NAME.search(body.strip())
    said = f"{name[1] if name else 'error'} [code {code or f'HTTP {status}'}]"
    if code.isdigit() and int(code) in _OF_THE_TABLE:
        field = _FIELD.search(body)
        return Refused(f"it has no column {field[1]}; add it there first" if field else said)
    return Away(said)
