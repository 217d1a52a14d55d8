"""Access statements: what they make, what they refuse, how they are committed."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

ADMIN = ("default", "admin-password")


@pytest.fixture
def table(server) -> str:
    """An empty table `policies` in analytics with rows 1 to 4, without policies."""
    for key in server.ask("SELECT short_name FROM system.row_policies WHERE table = 'policies'").split():
        server.ask(f"DROP ROW POLICY {key} ON analytics.policies")
    server.ask("CREATE OR REPLACE TABLE analytics.policies (x Int64, owner String) ENGINE = MergeTree ORDER BY x")
    server.ask("INSERT INTO analytics.policies VALUES (1, 'u1'), (2, 'u2'), (3, 'u1'), (4, 'nobody')")
    for user in ("u1", "u2"):
        server.ask(f"CREATE USER OR REPLACE {user} IDENTIFIED BY 'pw'")
        server.ask(f"GRANT SELECT ON analytics.policies TO {user}")
    return "analytics.policies"


def seen(server, user: str) -> list[int]:
    """What the user reads of the table."""
    answer = server.http(user, "pw", "SELECT x FROM analytics.policies ORDER BY x")
    assert answer.status == 200, answer.text
    return [int(line) for line in answer.text.split()]


def test_without_a_policy_a_grant_shows_all(server, table) -> None:
    assert seen(server, "u1") == [1, 2, 3, 4]


def test_a_user_whom_no_policy_names_sees_nothing(server, table) -> None:
    server.ask(f"CREATE ROW POLICY p ON {table} USING 1 TO u1")
    assert (seen(server, "u1"), seen(server, "u2")) == ([1, 2, 3, 4], [])


def test_policies_for_all_cover_users_made_later(server, table) -> None:
    server.ask(f"CREATE ROW POLICY p ON {table} USING owner = currentUser() TO ALL")
    server.ask("CREATE USER OR REPLACE later IDENTIFIED BY 'pw'")
    server.ask(f"GRANT SELECT ON {table} TO later")
    assert [seen(server, user) for user in ("u1", "u2", "later")] == [[1, 3], [2], []]


def test_except_names_are_not_covered_and_users_made_later_are(server, table) -> None:
    server.ask(f"CREATE ROW POLICY p ON {table} USING owner = currentUser() TO ALL EXCEPT u1")
    server.ask("CREATE USER OR REPLACE nobody IDENTIFIED BY 'pw'")
    server.ask(f"GRANT SELECT ON {table} TO nobody")
    assert [seen(server, user) for user in ("u1", "u2", "nobody")] == [[], [2], [4]]


def test_permissive_policies_add_and_restrictive_ones_cut(server, table) -> None:
    server.ask(f"CREATE ROW POLICY a ON {table} USING x = 1 TO u1")
    server.ask(f"CREATE ROW POLICY b ON {table} AS PERMISSIVE FOR SELECT USING x > 2 TO ALL")
    server.ask(f"CREATE ROW POLICY c ON {table} AS RESTRICTIVE USING x < 4 OR owner = 'none' TO ALL EXCEPT u2")
    assert (seen(server, "u1"), seen(server, "u2")) == ([1, 3], [3, 4])


def test_alter_and_drop_policy(server, table) -> None:
    server.ask(f"CREATE ROW POLICY p ON {table} USING x = 1 TO u1")
    server.ask(f"ALTER ROW POLICY p ON {table} USING x = 2")
    assert seen(server, "u1") == [2]
    server.ask(f"ALTER ROW POLICY p ON {table} TO u2")
    assert (seen(server, "u1"), seen(server, "u2")) == ([], [2])
    assert server.http(*ADMIN, f"CREATE ROW POLICY p ON {table} USING 1 TO ALL").code == 493
    server.ask(f"CREATE ROW POLICY IF NOT EXISTS p ON {table} USING 1 TO ALL")
    server.ask(f"CREATE ROW POLICY OR REPLACE p ON {table} USING x = 3 TO ALL")
    assert seen(server, "u1") == [3]
    server.ask(f"DROP ROW POLICY p ON {table}")
    assert server.http(*ADMIN, f"DROP ROW POLICY p ON {table}").code == 523
    server.ask(f"DROP ROW POLICY IF EXISTS p ON {table}")
    assert seen(server, "u1") == [1, 2, 3, 4]


def test_a_new_user_of_an_old_name_is_not_in_old_policies(server, table) -> None:
    server.ask(f"CREATE ROW POLICY p ON {table} USING 1 TO u1")
    server.ask("DROP USER u1")
    server.ask("CREATE USER u1 IDENTIFIED BY 'pw'")
    assert server.http("u1", "pw", f"SELECT x FROM {table}").code == 497
    server.ask(f"GRANT SELECT ON {table} TO u1")
    assert seen(server, "u1") == []


def test_several_users_in_one_statement(server, table) -> None:
    server.ask("CREATE USER OR REPLACE `many-1`, `many-2` IDENTIFIED WITH sha256_password BY 'pw'")
    server.ask(f"GRANT SELECT ON {table} TO `many-1`, `many-2`")
    assert [seen(server, user) for user in ("many-1", "many-2")] == [[1, 2, 3, 4]] * 2
    server.ask(f"REVOKE SELECT ON {table} FROM `many-1`")
    assert server.http("many-1", "pw", f"SELECT x FROM {table}").code == 497
    server.ask("DROP USER `many-1`, `many-2`")
    assert server.http("many-2", "pw", "SELECT 1").code == 516


def test_column_grants(server, table) -> None:
    server.ask("CREATE USER OR REPLACE narrow IDENTIFIED BY 'pw'")
    server.ask(f"GRANT SELECT(x) ON {table} TO narrow")
    assert seen(server, "narrow") == [1, 2, 3, 4]
    assert server.http("narrow", "pw", f"SELECT owner FROM {table}").code == 497


@pytest.mark.parametrize(
    "identified",
    ["BY 'it''s \\\\ one'", "WITH sha256_password BY 'it\\'s \\\\ one'",
     "WITH sha256_hash BY '3e2b0cf5ee2a0eb2d7ed2e1ab0b1bd9b5ff4a4d4b51e1d4a6a4dcfd9f0bfa1c5'"],
)  # fmt: skip
def test_forms_of_password(server, identified) -> None:
    server.ask(f"CREATE USER OR REPLACE secretive IDENTIFIED {identified}")
    expected = 516 if "hash" in identified else 0
    assert server.http("secretive", "it's \\ one", "SELECT 1").code == expected


def test_a_changed_password_counts_at_once_and_costs_no_reopen(server) -> None:
    server.ask("CREATE USER OR REPLACE changing IDENTIFIED BY 'old'")
    before = server.reopens()
    server.ask("ALTER USER changing IDENTIFIED BY 'new'")
    assert (server.http("changing", "old", "SELECT 1").code, server.http("changing", "new", "SELECT 1").code) == (
        516,
        0,
    )
    assert server.reopens() == before


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("CREATE USER open", 36),
        ("CREATE USER open NOT IDENTIFIED", 36),
        ("CREATE USER open IDENTIFIED WITH double_sha1_password BY 'x'", 48),
        ("CREATE USER open IDENTIFIED WITH sha256_hash BY 'short'", 36),
        ("CREATE USER `a b` IDENTIFIED BY 'x'", 36),
        ("CREATE USER `a><b` IDENTIFIED BY 'x'", 36),
        ("CREATE USER cdc_writer IDENTIFIED BY 'x'", 493),
        ("CREATE USER open IDENTIFIED BY 'x' HOST LOCAL", 48),
        ("CREATE USER open IDENTIFIED BY 'x' SETTINGS readonly = 1", 48),
        ("ALTER USER nobody_knows IDENTIFIED BY 'x'", 192),
        ("ALTER USER cdc_writer RENAME TO x", 48),
        ("CREATE ROLE r", 497),
        ("GRANT r TO cdc_writer", 48),
        ("GRANT SELECT ON analytics.* TO nobody_knows", 511),
        ("GRANT NO SUCH PRIVILEGE ON *.* TO cdc_writer", 62),
        ("GRANT SELECT ON `a-b`.* TO cdc_writer", 48),
        ("REVOKE SELECT ON analytics.orders FROM cdc_writer", 48),
        ("CREATE ROW POLICY p ON analytics.* USING 1 TO ALL", 48),
        ("CREATE ROW POLICY p ON analytics.`a-b` USING 1 TO ALL", 48),
        ("CREATE ROW POLICY p ON analytics.orders USING 1 TO nobody_knows", 511),
        ("CREATE ROW POLICY p ON analytics.orders USING ) TO ALL", 62),
    ],
)
def test_refusals_change_nothing(server, statement, code) -> None:
    before = (server.data / "access.json").read_bytes()
    answer = server.http(*ADMIN, statement)
    assert answer.code == code, answer.text
    assert (server.data / "access.json").read_bytes() == before


def test_what_is_kept_can_be_read_back_by_the_operator(server, table) -> None:
    server.ask(f"CREATE ROW POLICY p ON {table} AS RESTRICTIVE USING x=1 and owner='it''s' TO ALL EXCEPT u1, u2")
    columns = "short_name, database, table, select_filter, is_restrictive, apply_to_all, apply_to_list, apply_to_except"
    answer = server.as_operator(
        f"SELECT {columns} FROM system.row_policies WHERE table = 'policies' FORMAT JSONCompact"
    )
    assert json.loads(answer.text)["data"] == [
        ["p", "analytics", "policies", "(x = 1) AND (owner = 'it\\'s')", 1, 1, [], ["u1", "u2"]]
    ]
    answer = server.as_operator("SELECT name, auth_type FROM system.users WHERE name = 'u1'")
    assert answer.text == "u1\t['sha256_password']\n"
    answer = server.as_operator("SELECT access_type, database, table FROM system.grants WHERE user_name = 'u1'")
    assert answer.text == "SELECT\tanalytics\tpolicies\n"
    assert server.as_operator("SHOW GRANTS").text.count("TO kernel_operator") >= 2


def test_a_reopen_is_not_spent_on_what_is_so_already(server) -> None:
    server.ask("CREATE USER IF NOT EXISTS settled IDENTIFIED BY 'x'")
    server.ask("GRANT SELECT ON analytics.* TO settled")
    before = server.reopens()
    server.ask("CREATE USER IF NOT EXISTS settled IDENTIFIED BY 'x'")
    server.ask("GRANT SELECT ON analytics.* TO settled")
    server.ask("DROP USER IF EXISTS nobody_knows")
    assert server.reopens() == before


def test_users_with_rights_that_others_have_cost_no_reopen(server) -> None:
    users = [f"equal_{number}" for number in range(200)]
    for one in users[:1]:
        server.as_operator(f"CREATE USER {one} IDENTIFIED BY 'x'")
        server.as_operator(f"GRANT SELECT ON analytics.* TO {one}")
    before = server.reopens()
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda one: server.as_operator(f"CREATE USER {one} IDENTIFIED BY 'x'").code, users[1:]))
        given = list(pool.map(lambda one: server.as_operator(f"GRANT SELECT ON analytics.* TO {one}").code, users[1:]))
    assert {*made, *given} == {0}
    assert server.reopens() == before
    assert server.http("equal_199", "x", "SELECT currentUser()").text == "equal_199\n"
    assert server.http("equal_199", "x", "SELECT count() FROM analytics.orders").text == "0\n"
    assert server.http("equal_199", "x", "SELECT count() FROM system.users").code == 497
    server.as_operator(f"DROP USER {', '.join(users)}")
    assert server.http("equal_199", "x", "SELECT 1").code == 516


def test_the_system_tables_tell_of_each_user_as_it_comes_and_goes(server) -> None:
    """Also of more than the pieces that are kept beside each other."""
    names = [f"coming_{number:02}" for number in range(70)]
    users = "SELECT groupArray(name) FROM (SELECT name FROM system.users WHERE name LIKE 'coming%' ORDER BY name)"
    grants = "SELECT user_name, access_type FROM system.grants WHERE user_name LIKE 'coming%' ORDER BY ALL"
    everyone = server.ask("SELECT count() FROM system.users")
    for number, name in enumerate(names):
        server.ask(f"CREATE USER {name} IDENTIFIED BY 'x'")
        assert server.ask(users) == "[" + ",".join(f"'{one}'" for one in names[: number + 1]) + "]"
    server.ask(f"GRANT SELECT ON analytics.* TO {names[0]}")
    server.ask(f"GRANT INSERT ON analytics.* TO {names[0]}, {names[1]}")
    assert server.ask(grants).split() == [names[0], "INSERT", names[0], "SELECT", names[1], "INSERT"]
    server.ask(f"DROP USER {', '.join(names[1:])}")
    server.ask(f"REVOKE INSERT ON analytics.* FROM {names[0]}")
    assert server.ask(users) == f"['{names[0]}']"
    assert server.ask(grants).split() == [names[0], "SELECT"]
    server.ask(f"DROP USER {names[0]}")
    assert server.ask("SELECT count() FROM system.users") == everyone


def test_statements_that_arrive_together_share_reopens_and_a_bad_one_fails_alone(server) -> None:
    """Policies, unlike users, need a re-open each when they come alone."""
    before = server.reopens()
    numbers = range(200)
    statements = [f"CREATE ROW POLICY crowd ON analytics.crowd_{number} USING 1 TO ALL" for number in numbers]
    statements[77] = "DROP USER nobody_knows"
    statements[123] = "CREATE ROW POLICY crowd ON analytics.crowd_123 USING 1 TO nobody_knows"
    with ThreadPoolExecutor(32) as pool:
        codes = [answer.code for answer in pool.map(server.as_operator, statements)]
    assert {number: code for number, code in enumerate(codes) if code} == {77: 192, 123: 511}
    assert 1 <= server.reopens() - before < 50
    count = "SELECT count() FROM system.row_policies WHERE short_name = 'crowd'"
    assert server.ask(count) == "198"
    before = server.reopens()
    server.ask("DROP ROW POLICY IF EXISTS crowd ON " + ", ".join(f"analytics.crowd_{number}" for number in numbers))
    assert server.reopens() == before + 1
    assert server.ask(count) == "0"


def test_the_platforms_own_bootstrap_is_accepted_twice_and_limits_the_operator(make_server) -> None:
    from pathlib import Path

    import kernel_operator

    script = (Path(kernel_operator.__file__).parent / "targets/clickhouse/bootstrap.sql").read_text()
    passwords = {name: hashlib.sha256(f"{name}-password".encode()).hexdigest() for name in ("operator", "writer")}
    script = script.format(**{f"{name}_password_sha256": digest for name, digest in passwords.items()})
    server = make_server()
    server.start()
    for _ in range(2):
        for statement in filter(str.strip, script.split(";\n")):
            server.ask(statement)
    server.make_table("orders")
    assert server.as_operator("CREATE USER tenant_x IDENTIFIED BY 'x'").status == 200
    assert server.as_operator("GRANT SELECT ON analytics.* TO tenant_x").status == 200
    for statement in (
        "CREATE USER other IDENTIFIED BY 'x'",
        "ALTER USER cdc_writer IDENTIFIED BY 'x'",
        "DROP USER kernel_operator",
        "GRANT INSERT ON analytics.* TO tenant_x",
        "GRANT SELECT ON system.* TO tenant_x",
        "CREATE ROW POLICY p ON default.t USING 1 TO ALL",
    ):
        assert server.as_operator(statement).code == 497, statement
    server.kill()
    server.start()
    assert server.http("tenant_x", "x", "SELECT count() FROM analytics.orders").text == "0\n"
    server.close()


def test_no_password_or_hash_is_in_logs_or_errors(server) -> None:
    secret = "never-to-be-seen"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    server.ask(f"CREATE USER OR REPLACE hidden IDENTIFIED BY '{secret}'")
    broken = server.http(*ADMIN, f"CREATE USER hidden2 IDENTIFIED BY '{secret}' NO SUCH CLAUSE")
    assert broken.code == 62
    assert secret not in broken.text
    server.http("hidden", secret, "SELECT 1", quota_key=secret, query_id=secret)
    server.http("hidden", secret + "x", "SELECT 1")
    log = server.log.read_text()
    assert "user=hidden" in log
    for kept in (secret, digest, "admin-password"):
        assert kept not in log
    assert digest not in (server.data / "users.xml").read_text()
    for name in ("access.json", "users.xml", "config.xml", "lock"):
        assert (server.data / name).stat().st_mode & 0o077 == 0
