"""The bootstrap, run by psql as an administrator would, and the check that it was."""

import os
import subprocess
from pathlib import Path

import asyncpg
import pytest

from kernel_local.parts.postgres import connection_environment, psql
from kernel_local.testing import PostgresServer
from kernel_operator.targets import postgres as package
from kernel_operator.targets.postgres import NotBootstrapped, PostgresTarget

SCRIPT = Path(package.__file__).with_name("bootstrap.sql")


def bootstrap(server: PostgresServer, **passwords: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **connection_environment(server.admin_url), **passwords}
    command = [str(psql(server.admin_url)), "-X", "-q", "-f", str(SCRIPT)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def the_passwords(server: PostgresServer) -> dict[str, str]:
    """Those that are set already, so that nobody else is locked out."""
    return {
        name: connection_environment(url)["PGPASSWORD"]
        for name, url in (
            ("KERNEL_OPERATOR_PASSWORD", server.operator_url),
            ("KERNEL_CDC_PASSWORD", server.cdc_url),
            ("KERNEL_GATEWAY_PASSWORD", server.gateway_url),
        )
    }


DAMAGE = {
    "ALTER ROLE kernel_operator BYPASSRLS": "ALTER ROLE kernel_operator NOBYPASSRLS",
    "ALTER ROLE kernel_operator NOCREATEROLE": "ALTER ROLE kernel_operator CREATEROLE",
    "ALTER ROLE kernel_operator SUPERUSER": "ALTER ROLE kernel_operator NOSUPERUSER",
    "ALTER ROLE kernel_cdc NOREPLICATION": "ALTER ROLE kernel_cdc REPLICATION",
    "ALTER ROLE kernel_cdc NOBYPASSRLS": "ALTER ROLE kernel_cdc BYPASSRLS",
    "ALTER ROLE kernel_cross LOGIN": "ALTER ROLE kernel_cross NOLOGIN",
    "ALTER ROLE kernel_app BYPASSRLS": "ALTER ROLE kernel_app NOBYPASSRLS",
    "GRANT kernel_cross TO kernel_operator": "REVOKE kernel_cross FROM kernel_operator",
    "GRANT kernel_cdc TO kernel_app": "REVOKE kernel_cdc FROM kernel_app",
    "ALTER ROLE kernel_gateway BYPASSRLS": "ALTER ROLE kernel_gateway NOBYPASSRLS",
    "ALTER ROLE kernel_gateway CREATEROLE": "ALTER ROLE kernel_gateway NOCREATEROLE",
    "GRANT pg_monitor TO kernel_gateway": "REVOKE pg_monitor FROM kernel_gateway",
    "GRANT kernel_gateway TO pg_monitor": "REVOKE kernel_gateway FROM pg_monitor",
    "GRANT pg_read_all_data TO kernel_publisher": "REVOKE pg_read_all_data FROM kernel_publisher",
    "GRANT kernel_app TO kernel_gateway WITH SET TRUE": "REVOKE kernel_app FROM kernel_gateway",
    "REVOKE kernel_publisher FROM kernel_gateway": "GRANT kernel_publisher TO kernel_gateway",
    "DROP SCHEMA kernel_cross CASCADE": "the schema kernel_cross is missing",
    "GRANT CREATE ON SCHEMA kernel_cross TO kernel_operator": "with USAGE for kernel_gateway alone",
    "DROP FUNCTION kernel_cross.user_tenants": "are another version's: user_tenants",
    "ALTER FUNCTION kernel_cross.find_user SECURITY INVOKER": "by_id uuid) must be SECURITY DEFINER",
    "ALTER FUNCTION kernel_cross.find_user OWNER TO kernel_operator": "must be SECURITY DEFINER, belong to",
    "ALTER FUNCTION kernel_cross.find_user RESET search_path": "pin its search_path",
    "GRANT EXECUTE ON FUNCTION kernel_cross.find_user TO kernel_app": "may call kernel_cross.find_user",
    "REVOKE EXECUTE ON FUNCTION kernel_cross.find_user FROM kernel_gateway": "only kernel_gateway may call",
    "CREATE FUNCTION kernel_cross.find_user(text) RETURNS int RETURN 1": "must not hold kernel_cross.find_user(text)",
    "CREATE OR REPLACE FUNCTION kernel_cross.verify_email(of_user uuid) RETURNS void LANGUAGE sql SECURITY DEFINER "
    "SET search_path = pg_catalog, pg_temp AS 'SELECT'": "are another version's: verify_email",
    "CREATE TABLE kernel_cross.kept (a int)": "must not hold table kernel_cross.kept",
    "GRANT CONNECT ON DATABASE platform TO PUBLIC": "REVOKE CONNECT ON DATABASE platform FROM PUBLIC",
    "REVOKE CREATE ON DATABASE platform FROM kernel_operator": "GRANT CREATE ON DATABASE platform",
    "REVOKE kernel_app FROM kernel_operator CASCADE": "GRANT kernel_app TO kernel_operator WITH ADMIN TRUE",
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_differs_is_named_and_a_second_run_puts_it_right(
    damage: str, postgres: PostgresServer, target: PostgresTarget, admin: asyncpg.Connection
) -> None:
    await admin.execute(damage)
    try:
        with pytest.raises(NotBootstrapped) as caught:
            await target.prepare()
        assert DAMAGE[damage] in str(caught.value)
        assert "running bootstrap.sql again" in str(caught.value)
    finally:
        done = bootstrap(postgres, **the_passwords(postgres))
    assert done.returncode == 0, done.stderr
    assert (await target.prepare()).changes == ()


async def test_running_it_again_changes_nothing(
    postgres: PostgresServer, target: PostgresTarget, admin: asyncpg.Connection
) -> None:
    question = (
        "SELECT jsonb_agg(r ORDER BY r) FROM (SELECT to_jsonb(a) - 'rolpassword' AS r FROM pg_authid a "
        "UNION ALL SELECT to_jsonb(m) - 'oid' FROM pg_auth_members m UNION ALL SELECT to_jsonb(d) FROM pg_database d "
        "WHERE datname = 'platform' UNION ALL SELECT to_jsonb(n) - 'oid' FROM pg_namespace n WHERE nspname !~ '^pg_' "
        "UNION ALL SELECT to_jsonb(p) - 'oid' - 'pronamespace' FROM pg_proc p WHERE proowner = 'kernel_cross'::regrole)"
    )
    assert bootstrap(postgres, **the_passwords(postgres)).returncode == 0
    before = await admin.fetchval(question)
    assert bootstrap(postgres, **the_passwords(postgres)).returncode == 0
    assert await admin.fetchval(question) == before


@pytest.mark.parametrize("missing", ["KERNEL_OPERATOR_PASSWORD", "KERNEL_CDC_PASSWORD", "KERNEL_GATEWAY_PASSWORD"])
def test_a_missing_password_is_named(missing: str, postgres: PostgresServer) -> None:
    given = {name: value for name, value in the_passwords(postgres).items() if name != missing}
    done = bootstrap(postgres, **given)
    assert done.returncode != 0
    assert missing in done.stderr


async def test_everyone_may_nothing_in_the_database(admin: asyncpg.Connection, target: PostgresTarget) -> None:
    rights = await admin.fetch(
        "SELECT privilege_type FROM pg_database, aclexplode(datacl) WHERE datname = 'platform' AND grantee = 0 "
        "UNION ALL SELECT privilege_type FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) "
        "WHERE nspname IN ('public', 'kernel') AND grantee = 0 "
        "UNION ALL SELECT privilege_type FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) "
        "WHERE pronamespace = 'kernel'::regnamespace AND grantee = 0"
    )
    assert rights == []


async def test_no_password_reaches_the_log(
    postgres: PostgresServer, admin: asyncpg.Connection, target: PostgresTarget
) -> None:
    await admin.execute("ALTER SYSTEM SET log_statement = 'all'")
    await admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    await admin.fetchval("SELECT pg_reload_conf()")
    try:
        assert bootstrap(postgres, **the_passwords(postgres)).returncode == 0
    finally:
        await admin.execute("ALTER SYSTEM RESET log_statement")
        await admin.fetchval("SELECT pg_reload_conf()")
    for password in the_passwords(postgres).values():
        assert password not in postgres.log.read_text(errors="replace")
        assert (
            await admin.fetchval("SELECT count(*) FROM pg_stat_statements WHERE strpos(query, $1) > 0", password) == 0
        )
