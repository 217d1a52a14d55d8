"""Ordinary clients and the plain HTTP interface against the development server."""

import asyncio
import gzip
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal

import clickhouse_connect
import lz4.frame
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import ClickHouseError

ADMIN = ("default", "admin-password")
ROW = {
    "id": uuid.UUID(int=7),
    "moment": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    "day": date(2026, 1, 2),
    "price": Decimal("12.34"),
    "text": "it's a \t tab, a \\ and {x:String} ✓",
    "maybe": None,
    "tags": ["a'b", "c"],
    "kind": "low",
}


@pytest.fixture(scope="module")
def everything(server) -> str:
    """A table of many types with ROW in it."""
    server.ask(
        "CREATE TABLE analytics.everything (id UUID, moment DateTime64(6, 'UTC'), day Date, price Decimal(10, 2), "
        "text String, maybe Nullable(Int64), tags Array(String), kind LowCardinality(String)) "
        "ENGINE = MergeTree ORDER BY id"
    )
    with server.writer() as writer:
        writer.insert("everything", [list(ROW.values())], column_names=list(ROW))
    return "everything"


def test_values_of_many_types_come_back_as_they_went_in(server, everything) -> None:
    with server.admin() as admin:
        result = admin.query("SELECT * FROM analytics.everything", tz_mode="aware")
        assert dict(zip(result.column_names, result.result_rows[0], strict=True)) == ROW


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("text", "String"),
        ("id", "UUID"),
        ("day", "Date"),
        ("tags", "Array(String)"),
        ("moment", "DateTime64(6, 'UTC')"),
        ("kind", "LowCardinality(String)"),
        ("maybe", "Nullable(Int64)"),
    ],
)
@pytest.mark.parametrize("user", ["administrator", "writer"])
def test_parameters_are_values_never_sql(server, everything, user, name, kind) -> None:
    client = server.admin() if user == "administrator" else server.writer()
    with client:
        query = f"SELECT {{p:{kind}}} AS v, '{{p:String}}' AS text, toTypeName(v)"
        value, text, type_name = client.query(query, parameters={"p": ROW[name]}, tz_mode="aware").result_rows[0]
    assert (value, text, type_name) == (ROW[name], "{p:String}", kind)


def test_a_missing_parameter_is_an_error(server) -> None:
    assert server.as_writer("SELECT {nothing:String}").code == 456


def test_identifiers_are_quoted(server) -> None:
    answer = server.as_writer("SELECT 1 FROM {t:Identifier}", param_t="numbers(1)` UNION ALL SELECT 2 -- ")
    assert answer.code == 60


def test_parameters_too_long_for_a_url_go_as_a_form(server) -> None:
    with server.admin() as admin:
        long = "x" * 100_000
        assert admin.query("SELECT length({p:String})", parameters={"p": long}).result_rows == [(100_000,)]


def test_async_client(server) -> None:
    async def run() -> None:
        client = await clickhouse_connect.get_async_client(
            host="127.0.0.1", port=server.port, username="cdc_writer", password="writer-password", database="analytics"
        )
        try:
            await asyncio.to_thread(server.make_table, "async_rows")
            moment = datetime(2026, 1, 1, tzinfo=UTC)
            await asyncio.gather(
                *(
                    client.insert(
                        "async_rows",
                        [[uuid.UUID(int=part), uuid.UUID(int=row), row, "", moment] for row in range(500)],
                        column_names=["tenant_id", "record_id", "amount", "note", "updated_at"],
                    )
                    for part in range(8)
                )
            )
        finally:
            await client.close()

    asyncio.run(run())
    assert server.ask("SELECT count(), sum(amount) FROM analytics.async_rows").split() == ["4000", "998000"]


def test_streaming_gives_every_row_in_order(server) -> None:
    with server.admin() as admin, admin.query_row_block_stream("SELECT number FROM numbers(1000000)") as stream:
        total, last = 0, -1
        for block in stream:
            assert block[0][0] == last + 1
            last = block[-1][0]
            total += len(block)
    assert total == 1_000_000


def test_order_holds_for_a_user_who_reads_through_the_view(server) -> None:
    text = server.as_writer("SELECT number FROM numbers_mt(300000) ORDER BY number DESC").text
    assert [int(line) for line in text.split()] == list(range(299_999, -1, -1))


def test_column_names_that_a_view_could_not_have(server) -> None:
    query = "SELECT 1, 1, (SELECT 2), currentUser(), user(), 'a`b', toUInt8((SELECT 3)) FORMAT JSONCompact"
    by_writer, by_admin = (json.loads(answer.text) for answer in (server.as_writer(query), server.http(*ADMIN, query)))
    assert by_writer["data"] == [[1, 1, 2, "cdc_writer", "cdc_writer", "a`b", 3]]
    assert len(by_writer["meta"]) == len(by_admin["meta"])
    assert [one["name"] for one in by_writer["meta"]][3:6] == [one["name"] for one in by_admin["meta"]][3:6]


@pytest.mark.parametrize("encoding", ["gzip", "lz4", "zstd", "deflate"])
def test_compression_both_ways(server, encoding) -> None:
    import zlib

    packers = {"gzip": gzip, "lz4": lz4.frame, "zstd": zstd, "deflate": zlib}
    query = "SELECT number FROM numbers(100000) FORMAT TabSeparated"
    answer = server.http(
        *ADMIN, packers[encoding].compress(query.encode()), enable_http_compression="1",
        headers_Content_Encoding=encoding, headers_Accept_Encoding=encoding,
    )  # fmt: skip
    assert answer.headers["Content-Encoding"] == encoding
    assert packers[encoding].decompress(answer.body).split()[-1] == b"99999"
    assert len(answer.body) < 500_000


@pytest.mark.parametrize("encoding", ["gzip", "lz4", "zstd", "deflate", "br"])
def test_damaged_bodies_are_errors(server, encoding) -> None:
    answer = server.http(*ADMIN, b"SELECT 1 but not compressed", headers_Content_Encoding=encoding)
    assert answer.code in (271, 48)


def test_a_small_body_that_unpacks_to_too_much_is_refused(server) -> None:
    bomb = gzip.compress(b"\0" * (257 << 20), 1)
    answer = server.http(*ADMIN, bomb, headers_Content_Encoding="gzip")
    assert (answer.status, answer.code) == (413, 307)


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(server) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"POST /?user=default HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        head = connection.recv(65536)
    assert b" 413 " in head.splitlines()[0]


@pytest.mark.parametrize(
    ("statement", "code", "status"),
    [
        ("SELEC 1", 62, 400),
        ("SELECT 1; SELECT 2", 62, 400),
        ("SELECT no_such_column", 47, 404),
        ("SELECT no_such_function()", 46, 404),
        ("SELECT * FROM no_such_table", 60, 404),
        ("SELECT * FROM no_such_database.t", 81, 404),
        ("SELECT 1 FORMAT NoSuchFormat", 73, 404),
        ("SELECT toUInt8('x')", 6, 400),
        ("SELECT 1 SETTINGS no_such_setting = 1", 115, 404),
        ("CREATE USER default IDENTIFIED BY 'x'", 495, 500),
        ("GRANT SELECT ON *.* TO nobody_knows", 511, 404),
        ("DROP USER nobody_knows", 192, 403),
        ("SELECT * FROM file('/etc/passwd')", 497, 403),
        ("CREATE TABLE analytics.k (x Int8) ENGINE = Kafka('a', 'b', 'c', 'd')", 497, 403),
        ("CREATE TABLE analytics.k (x Int8) ENGINE = MySQL('a', 'b', 'c', 'd', 'e')", 497, 403),
        ("CREATE TABLE analytics.k (x Int8) ENGINE = MergeTree ORDER BY x SETTINGS disk = 'x'", 497, 403),
        ("CREATE TABLE analytics.k ON CLUSTER c (x Int8) ENGINE = Memory", 497, 403),
        ("CREATE DICTIONARY d (x Int8) PRIMARY KEY x SOURCE(NULL()) LAYOUT(FLAT()) LIFETIME(1)", 497, 403),
        ("ALTER TABLE analytics.orders FREEZE", 497, 403),
        ("SYSTEM SHUTDOWN", 497, 403),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", 497, 403),
    ],
)
def test_errors_have_clickhouses_codes_and_statuses(server, statement, code, status) -> None:
    answer = server.http(*ADMIN, statement)
    assert (answer.code, answer.status) == (code, status), answer.text
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    assert server.ask("SELECT 1") == "1"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("default", ""),
        ("default", "wrong"),
        ("nobody", ""),
        ("cdc_writer", ""),
        ("cdc_writer", "admin-password"),
        ("", "x"),
        ("tenant_0191a000-0000-7000-8000-00000000000a", "password-0191a000-0000-7000-8000-00000000000b"),
    ],
)
def test_wrong_credentials_are_refused_alike(server, user, password) -> None:
    answer = server.http(user, password, "SELECT 1")
    assert (answer.code, answer.status) == (516, 403)
    assert "password is incorrect, or there is no user with such name" in answer.text


def test_each_way_to_name_a_user(server) -> None:
    import urllib.request

    address = f"http://127.0.0.1:{server.port}/"
    in_headers = {"X-ClickHouse-User": "cdc_writer", "X-ClickHouse-Key": "writer-password"}
    for url, headers in ((address, in_headers), (f"{address}?user=cdc_writer&password=writer-password", {})):
        request = urllib.request.Request(url, b"SELECT currentUser()", headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.read() == b"cdc_writer\n"


def test_get_requests_only_read(server) -> None:
    answer = server.http(*ADMIN, "", method="GET", query="CREATE TABLE analytics.by_get (x Int8) ENGINE = Memory")
    assert answer.code == 164
    assert server.http(*ADMIN, "", method="GET", query="SELECT 2").text == "2\n"
    assert server.as_writer("SELECT 3", readonly="1").text == "3\n"
    assert server.as_writer("INSERT INTO orders (note) VALUES ('x')", readonly="1").code == 164


def test_settings_end_with_their_request(server) -> None:
    ask = "SELECT getSetting('max_threads')"
    plain = server.ask(ask)
    assert server.ask(ask, max_threads="7") == "7"
    assert server.ask(f"{ask} SETTINGS max_threads = 9") == "9"
    assert server.http(*ADMIN, "SET max_threads = 5").status == 200
    assert server.ask(ask) == plain
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: server.ask(ask, max_threads=str(number)), range(3, 43)))
    assert answers == [str(number) for number in range(3, 43)]


def test_settings_of_a_session_stay_in_it_and_survive_a_reopen(server) -> None:
    ask = "SELECT getSetting('max_block_size'), currentDatabase()"
    session = {"session_id": "s1"}
    server.ask("SET max_block_size = 1234", **session)
    server.ask("USE analytics", **session)
    assert server.ask(ask, max_block_size="99", **session).split() == ["99", "analytics"]
    before = server.reopens()
    server.ask("CREATE ROW POLICY OR REPLACE p ON analytics.session_reopen USING 1 TO ALL")
    assert server.reopens() > before
    assert server.ask(ask, **session).split() == ["1234", "analytics"]
    assert server.as_writer(ask, **session).text.split()[0] != "1234"
    assert server.http(*ADMIN, ask, session_id="never made", session_check="1").code == 372


def test_insert_token_makes_a_repeat_a_no_op(server) -> None:
    server.make_table("tokens")
    with server.writer() as writer:
        for token, expected in (("t:0:0-9", 10), ("t:0:0-9", 10), ("t:0:10-19", 20), ("t:0:0-9", 20)):
            # Rows differ each time: it is the token that counts, not the content.
            moment = datetime.now(UTC)
            rows = [[uuid.UUID(int=1), uuid.uuid4(), 1, token, moment] for _ in range(10)]
            names = ["tenant_id", "record_id", "amount", "note", "updated_at"]
            writer.insert("tokens", rows, column_names=names, settings={"insert_deduplication_token": token})
            assert server.ask("SELECT count() FROM analytics.tokens") == str(expected)


@pytest.mark.parametrize(
    ("statement", "data"),
    [
        ("INSERT INTO analytics.plain (x, s) FORMAT TabSeparated\n1\tFORMAT x\n", b""),
        ("INSERT INTO analytics.plain (x, s) VALUES (1, 'FORMAT x')", b""),
        ("INSERT /* FORMAT CSV */ INTO `analytics`.`plain` FORMAT JSONEachRow", b'{"x": 1, "s": "FORMAT x"}'),
        ("INSERT INTO {d:Identifier}.plain (x, s) SETTINGS max_threads = 1 FORMAT CSV", b'1,"FORMAT x"\n'),
    ],
)
@pytest.mark.parametrize("in_url", [True, False])
def test_forms_of_insert(server, statement, data, in_url) -> None:
    server.ask("CREATE OR REPLACE TABLE analytics.plain (x Int64, s String) ENGINE = MergeTree ORDER BY x")
    if in_url and data:
        answer = server.as_writer(data, query=statement, param_d="analytics")
    else:
        answer = server.as_writer(statement.encode() + (b"\n" + data if data else b""), param_d="analytics")
    assert answer.status == 200, answer.text
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "1"
    assert server.ask("SELECT * FROM analytics.plain") == "1\tFORMAT x"


def test_a_failed_insert_leaves_nothing(server) -> None:
    server.ask("CREATE OR REPLACE TABLE analytics.plain (x Int64, s String) ENGINE = MergeTree ORDER BY x")
    answer = server.as_writer("INSERT INTO analytics.plain FORMAT TabSeparated\n1\ta\nnot a number\tb\n")
    assert answer.code in (27, 6, 72)
    assert server.ask("SELECT count() FROM analytics.plain") == "0"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO default.other (x) VALUES (1)", "INSERT INTO system.one VALUES (1)", "DROP TABLE analytics.orders",
        "INSERT INTO default.other SELECT 1", "CREATE TABLE analytics.w (x Int8) ENGINE = Memory",
        "DELETE FROM analytics.orders WHERE 1", "OPTIMIZE TABLE analytics.orders", "SELECT * FROM system.users",
        "INSERT INTO analytics.orders (note) SELECT name FROM system.users",
        "INSERT INTO analytics.orders (note) SELECT secret FROM default.hidden",
        "INSERT INTO analytics.orders (note) SELECT * FROM file('/etc/passwd', 'LineAsString')",
    ],
)  # fmt: skip
def test_the_writer_only_inserts(server, statement) -> None:
    server.ask("CREATE TABLE IF NOT EXISTS default.hidden (secret String) ENGINE = Memory")
    answer = server.as_writer(statement)
    assert answer.code == 497, answer.text
    assert server.as_writer("SELECT count() FROM orders").text == "0\n"


def test_the_writer_inserts_what_it_reads_by_its_own_rights(server) -> None:
    columns = "(x Int64, s LowCardinality(String))"
    server.ask(f"CREATE OR REPLACE TABLE analytics.plain {columns} ENGINE = MergeTree ORDER BY x")
    server.ask("INSERT INTO analytics.plain VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    server.ask("CREATE ROW POLICY OR REPLACE some ON analytics.plain USING x < 3 TO cdc_writer")
    insert = "INSERT INTO analytics.plain SELECT p.* REPLACE ({by:Int64} + p.x AS x) FROM analytics.plain AS p"
    answer = server.as_writer(f"-- more\n{insert} SETTINGS max_threads = 1", param_by="10")
    assert answer.status == 200, answer.text
    found = server.ask("SELECT groupArray((x, s)) FROM (SELECT * FROM analytics.plain ORDER BY x)")
    assert found == "[(1,'a'),(2,'b'),(3,'c'),(11,'a'),(12,'b')]"
    server.ask("DROP ROW POLICY some ON analytics.plain")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO analytics.orders (note) VALUES ('x')", "DROP TABLE system.one", "DROP DATABASE system",
        "GRANT INSERT ON analytics.* TO cdc_writer", "GRANT ALL ON *.* TO kernel_operator", "DROP USER default",
        "SYSTEM FLUSH LOGS", "CREATE TABLE analytics.u (x Int8) ENGINE = URL('http://x', 'CSV')",
        "CREATE VIEW analytics.v AS SELECT * FROM system.users", "TRUNCATE TABLE analytics.orders",
    ],
)  # fmt: skip
def test_the_operator_does_its_own_work_only(server, statement) -> None:
    assert server.as_operator(statement).code in (497, 495)


def test_the_operator_alters_deletes_and_drops(server) -> None:
    server.make_table("work")
    server.as_writer(
        "INSERT INTO work (record_id, amount, updated_at) VALUES "
        "(generateUUIDv4(), 1, now64()), (generateUUIDv4(), 2, now64())"
    )
    for statement in (
        "ALTER TABLE work ADD COLUMN IF NOT EXISTS extra Nullable(String)",
        "ALTER TABLE work MODIFY TTL toDateTime(updated_at) + INTERVAL 3650 DAY",
        "ALTER TABLE work DELETE WHERE amount = 1 SETTINGS mutations_sync = 2",
        "OPTIMIZE TABLE work FINAL",
    ):
        answer = server.as_operator(statement)
        assert answer.status == 200, answer.text
    assert server.ask("SELECT count() FROM analytics.work") == "1"
    assert server.as_operator("DELETE FROM work WHERE amount = 2").status == 200
    assert server.ask("SELECT count() FROM analytics.work") == "0"
    assert server.as_operator("DROP TABLE work").status == 200
    assert server.as_operator("EXISTS TABLE work").text == "0\n"


def test_ping_needs_no_password(server) -> None:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ping", timeout=30) as answer:
        assert answer.read() == b"Ok.\n"


def test_wrong_password_is_an_error_of_the_client_library(server) -> None:
    with pytest.raises(ClickHouseError, match="516"):
        server.client("default", "wrong")
