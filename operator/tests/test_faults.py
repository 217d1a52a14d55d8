"""The fault point of the tests: what counts as a change, and that the process is dead after the last one."""

import asyncio
import signal
import sys

import pytest

from kernel_operator.settings import SettingsError, load

PROGRAM = """
import asyncio, os, sys
from kernel_operator import faults
from kernel_operator.targets.postgres.session import transaction
from kernel_common.database import open_pool

async def main():
    pool = await open_pool(os.environ["DATABASE_URL"], application="faults")
    faults.arm(2)
    for statement in sys.argv[1:]:
        async with transaction(pool) as connection:
            await connection.execute(statement)
        print(statement, flush=True)
    await pool.close()

asyncio.run(main())
"""
READ, WRITE = "SELECT 1", "SELECT pg_current_xact_id()"


@pytest.fixture
def settings(monkeypatch):
    for name, value in {
        "DATABASE_URL": "postgres://o:p@127.0.0.1:1/platform",
        "CLICKHOUSE_URL": "http://o:p@127.0.0.1:1",
        "VALKEY_URL": "redis://o:p@127.0.0.1:1/0",
        "KAFKA_BROKERS": "127.0.0.1:1",
        "KERNEL_MASTER_KEY": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_it_is_off_unless_it_is_asked_for(settings) -> None:
    assert load().operator_fault_after_writes is None


@pytest.mark.parametrize("value", ["0", "-1", "", "soon"])
def test_a_number_that_is_none_is_refused(settings, value) -> None:
    settings.setenv("OPERATOR_FAULT_AFTER_WRITES", value)
    with pytest.raises(SettingsError, match="OPERATOR_FAULT_AFTER_WRITES"):
        load()


@pytest.mark.parametrize(
    ("statements", "told", "code"),
    [
        ([READ, WRITE, READ, READ], 4, 0),
        ([WRITE, READ, WRITE, READ], 2, -signal.SIGKILL),
    ],
)
async def test_only_transactions_that_wrote_count(postgres, statements, told, code) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *statements),
        env={"DATABASE_URL": postgres.operator_url},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert (len(output.splitlines()), process.returncode) == (told, code)
