"""What a tenant's user tries, as that user: each try is refused or shows the tenant's own rows only."""

from pathlib import Path
from uuid import UUID

import pytest

TENANT_A = UUID("0191a000-0000-7000-8000-00000000000a")
TENANT_B = UUID("0191a000-0000-7000-8000-00000000000b")
OWN = TENANT_A
FOREIGN = ("secret-of-b", "0191a000-0000-7000-8000-00000000000b")
WRITE_NOTHING = "INSERT INTO orders SELECT * FROM orders"

TRIES = [
    "SELECT * FROM orders",
    "SELECT * FROM analytics.orders FINAL",
    "SELECT * FROM orders__current",
    "SELECT * FROM `analytics`.`orders` /* WHERE */ -- comment",
    "SELECT * FROM orders WHERE 1 OR tenant_id = '0191a000-0000-7000-8000-00000000000b'",
    "SELECT * FROM orders PREWHERE 1",
    "SELECT note FROM orders UNION ALL SELECT note FROM analytics.orders",
    "WITH everything AS (SELECT * FROM orders) SELECT * FROM everything",
    "SELECT (SELECT groupArray(note) FROM orders)",
    "SELECT note FROM orders WHERE record_id IN (SELECT record_id FROM orders)",
    "SELECT a.note, b.note FROM orders AS a CROSS JOIN orders AS b",
    "SELECT arrayJoin((SELECT groupArray(note) FROM orders))",
    "SELECT toUInt8((SELECT max(note) FROM orders))",
    "SELECT CAST((SELECT max(note) FROM orders) AS UUID)",
    "SELECT throwIf(note LIKE 'secret%', 'secret found') FROM orders",
    "SELECT if(note LIKE 'secret%', toUInt8(note), 0) FROM orders",
    "SELECT * FROM remote('127.0.0.1', 'analytics.orders')",
    "SELECT * FROM remote('127.0.0.1', 'analytics.orders', 'default', '')",
    "SELECT * FROM remote('127.0.0.1', view(SELECT * FROM analytics.orders), 'default', '')",
    "SELECT * FROM remote('127.0.0.1', analytics.orders, 'tenant_0191a000-0000-7000-8000-00000000000b', '')",
    "SELECT * FROM `remote`('127.0.0.1', analytics, orders)",
    "SELECT * FROM remote/**/('127.0.0.1', analytics, orders) AS `x\ny (children 1)`",
    "SELECT * FROM RemoteSecure('127.0.0.1', analytics, orders)",
    "SELECT * FROM cluster('default', analytics.orders)",
    "SELECT * FROM merge('analytics', '.*')",
    "SELECT * FROM merge(REGEXP('.*'), 'orders')",
    "SELECT * FROM loop(analytics.orders) LIMIT 100",
    "SELECT * FROM mergeTreeIndex(analytics, orders)",
    "SELECT * FROM view(SELECT * FROM remote('127.0.0.1', analytics.orders))",
    "SELECT note FROM orders WHERE record_id IN remote('127.0.0.1', analytics.orders)",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT file('/etc/passwd')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1:1/x', 'CSV')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'x', 'y', 'z', '')",
    "SELECT * FROM mysql('127.0.0.1:1', 'x', 'y', 'z', '')",
    "SELECT * FROM executable('id', 'TabSeparated', 'x String')",
    "SELECT * FROM Python(options)",
    "SELECT * FROM python('options')",
    "SELECT * FROM options",
    "SELECT * FROM request",
    "SELECT * FROM dictionary('analytics.orders')",
    "SELECT dictGet('analytics.orders', 'note', 1)",
    "SELECT joinGet('analytics.orders', 'note', 1)",
    "SELECT hasColumnInTable('system', 'users', 'name')",
    "SELECT getServerSetting('user_files_path')",
    "SELECT * FROM system.users",
    "SELECT * FROM `system`.`users`",
    'SELECT * FROM "system"."users"',
    "SELECT * FROM system.query_log",
    "SELECT * FROM system.processes",
    "SELECT * FROM system.parts",
    "SELECT * FROM system.tables",
    "SELECT total_rows FROM system.tables WHERE name = 'orders'",
    "SELECT * FROM system.columns",
    "SELECT * FROM system.row_policies",
    "SELECT * FROM system.grants",
    "SELECT 1 WHERE 'x' IN system.users",
    "SELECT (SELECT groupArray(name) FROM system.users)",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM INFORMATION_SCHEMA.TABLES",
    "SELECT * FROM system.one, system.users",
    "SELECT * FROM {database:Identifier}.{table:Identifier}",
    "SELECT * FROM {table:Identifier}",
    "SELECT '{note:String}', {note:String}",
    "SELECT * FROM orders INTO OUTFILE '/tmp/kernel-escape.tsv'",
    "SELECT * FROM orders INTO OUTFILE '/tmp/kernel-escape.tsv' FORMAT Native",
    "SELECT * FROM orders SETTINGS additional_table_filters = {'analytics.orders': '1'}",
    "SELECT * FROM (SELECT * FROM orders SETTINGS use_query_cache = 1)",
    "SELECT * FROM orders SETTINGS allow_introspection_functions = 1",
    "SELECT * FROM orders SETTINGS format_schema = '/etc/passwd'",
    "SELECT * FROM orders FORMAT Template SETTINGS format_template_row = '/etc/passwd'",
    "SELECT 1; SELECT * FROM orders",
    "SELECT 1; DROP TABLE analytics.orders",
    "SELECT 1) AS x; DROP TABLE analytics.orders --",
    "SELECT 1 -- \n; DROP USER default",
    "EXPLAIN SELECT * FROM orders",
    "SELECT * FROM (EXPLAIN AST SELECT 1)",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT * FROM system.users))",
    "EXECUTE AS default SELECT * FROM orders",
    "SET ROLE ALL",
    "SET use_query_cache = 1",
    "SET allow_ddl = 1",
    "USE system",
    "SHOW TABLES FROM system",
    "SHOW CREATE TABLE orders",
    "SHOW GRANTS FOR default",
    "SHOW USERS",
    "DESCRIBE TABLE system.users",
    "DESCRIBE TABLE (SELECT * FROM system.users)",
    "DESCRIBE TABLE file('/etc/passwd')",
    "EXISTS TABLE system.users",
    "CHECK TABLE orders",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "OPTIMIZE TABLE orders FINAL",
    "CREATE TEMPORARY TABLE t AS SELECT * FROM orders",
    "CREATE TABLE analytics.copy ENGINE = Memory AS SELECT * FROM analytics.orders",
    "CREATE VIEW analytics.open SQL SECURITY NONE AS SELECT * FROM analytics.orders",
    "CREATE VIEW analytics.open DEFINER = default SQL SECURITY DEFINER AS SELECT * FROM analytics.orders",
    "CREATE DICTIONARY analytics.d (note String) PRIMARY KEY note SOURCE(CLICKHOUSE(TABLE 'orders')) LAYOUT(FLAT()) "
    "LIFETIME(1)",
    "CREATE FUNCTION f AS x -> file(x)",
    "CREATE USER intruder IDENTIFIED BY 'x'",
    "ALTER USER `tenant_0191a000-0000-7000-8000-00000000000b` IDENTIFIED BY 'x'",
    "DROP ROW POLICY tenant_isolation ON analytics.orders",
    "CREATE ROW POLICY open ON analytics.orders USING 1 TO ALL",
    "GRANT ALL ON *.* TO `tenant_0191a000-0000-7000-8000-00000000000a`",
    "INSERT INTO orders (note) VALUES ('x')",
    WRITE_NOTHING,
    "INSERT INTO FUNCTION file('/tmp/kernel-escape.tsv', 'TSV') SELECT 1",
    "ALTER TABLE orders DELETE WHERE 1",
    "DELETE FROM orders WHERE 1",
    "UPDATE orders SET note = '' WHERE 1",
    "TRUNCATE TABLE orders",
    "DROP TABLE orders",
    "ATTACH TABLE analytics.orders2 FROM '/tmp' (x Int8) ENGINE = Memory",
    "BACKUP TABLE analytics.orders TO File('/tmp/kernel-escape')",
    "SELECT\u00a0* FROM orders",
    "ＳＥＬＥＣＴ * FROM system.users",
    "SELECT * FROM system\u200b.users",
    "select aiGenerate('x')",
    "",
    "\0SELECT 1",
]
PARAMETERS = {
    "param_database": "system",
    "param_table": "users`; SELECT * FROM orders; --",
    "param_note": "' FROM remote('127.0.0.1') --",
}
FINGERPRINT = (
    "SELECT count(), sum(cityHash64(*)), (SELECT groupArray(name) FROM system.tables WHERE database = 'analytics'), "
    "(SELECT arraySort(groupArray(name)) FROM system.users) FROM analytics.orders"
)


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("statement", TRIES)
def test_is_refused_or_shows_own_rows(server, statement, method) -> None:
    before = server.ask(FINGERPRINT)
    as_query = {"query": statement} if method == "GET" else {}
    answer = server.as_tenant(OWN, b"" if as_query else statement, method=method, **PARAMETERS, **as_query)
    text = answer.text
    if answer.status != 200:  # what an error quotes of the statement itself is no news
        for foreign in FOREIGN:
            text = text.replace(foreign, "") if foreign in statement else text
        assert answer.code
    for foreign in (*FOREIGN, "root:", "kernel_operator"):
        assert foreign not in text
    assert server.ask(FINGERPRINT) == before
    assert not Path("/tmp/kernel-escape.tsv").exists()


@pytest.mark.parametrize(
    "setting",
    [
        *("additional_table_filters", "use_query_cache_for_subqueries", "allow_ddl", "allow_introspection_functions"),
        *("format_schema", "query_cache_share_between_users", "force_index_by_date", "SQL_tenant_id", "profile"),
    ],
)
def test_closed_settings_are_refused_in_the_url(server, setting) -> None:
    answer = server.as_tenant(OWN, "SELECT * FROM orders", **{setting: "1"})
    assert answer.code in (452, 115)
    assert "mine-" not in answer.text


def test_the_plain_tries_work(server) -> None:
    """The table above must not pass because everything fails."""
    answers = [server.as_tenant(OWN, statement, **PARAMETERS) for statement in TRIES]
    assert sum("mine-" in answer.text for answer in answers) >= 9


def test_a_view_of_another_user_is_read_with_the_readers_rights(server) -> None:
    for tenant, count in ((TENANT_A, 10), (TENANT_B, 7)):
        answer = server.as_tenant(tenant, "SELECT count(), uniq(tenant_id), any(tenant_id) FROM orders__current")
        assert answer.text.split() == [str(count), "1", str(tenant)]


def test_the_same_query_by_two_tenants_shares_nothing(server) -> None:
    """Caches keyed by the text of a query would give the second what the first saw."""
    query = "SELECT sum(amount), min(note) FROM orders WHERE note != 'x'"
    for _ in range(3):
        seen_by_a = server.as_tenant(TENANT_A, query, use_query_cache="1").text
        seen_by_b = server.as_tenant(TENANT_B, query, use_query_cache="1").text
        assert seen_by_a.split() == ["45", f"mine-{TENANT_A}"]
        assert seen_by_b.split() == ["21", f"secret-of-b-{TENANT_B}"]
