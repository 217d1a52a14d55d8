"""Which files are still to be run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_operator.desired import Migration
from kernel_operator.targets.postgres.module_migrations.history import pending
from kernel_operator.targets.postgres.session import Refused

ONE, TWO, THREE = (Migration(f"000{number}_x.sql", f"-- {number}") for number in (1, 2, 3))


def applied(*migrations: Migration) -> dict[str, str]:
    return {migration.name: migration.checksum for migration in migrations}


def test_new_ones_in_the_order_of_their_names() -> None:
    assert pending({}, [THREE, ONE, TWO]) == [ONE, TWO, THREE]
    assert pending(applied(ONE), [TWO, ONE]) == [TWO]
    assert pending(applied(ONE, TWO), [TWO, ONE]) == []


def test_an_earlier_version_asks_for_nothing() -> None:
    assert pending(applied(ONE, TWO), [ONE]) == []
    assert pending(applied(ONE, TWO), []) == []


@pytest.mark.parametrize(
    ("reason", "named", "done", "given_"),
    [
        ("MigrationChanged", "0001_x.sql", (ONE, TWO), (Migration(ONE.name, "-- other"), TWO)),
        ("MigrationChanged", "0001_x.sql", (ONE,), (Migration(ONE.name, ONE.sql + "\n"), TWO)),
        ("MigrationOutOfOrder", "0002_x.sql stands before 0003_x.sql", (ONE, THREE), (ONE, TWO, THREE)),
        ("MigrationMissing", "0001_x.sql", (ONE, TWO), (TWO, THREE)),
        ("MigrationName", "'0001.txt'", (), (Migration("0001.txt", ""),)),
        ("MigrationName", "'../x.sql'", (), (Migration("../x.sql", ""),)),
        ("MigrationName", "twice", (), (ONE, ONE)),
        ("MigrationName", "501 files", (), tuple(Migration(f"{n:04}.sql", "") for n in range(501))),
    ],
)
def test_a_changed_past_is_refused(
    reason: str, named: str, done: tuple[Migration, ...], given_: tuple[Migration, ...]
) -> None:
    with pytest.raises(Refused) as caught:
        pending(applied(*done), given_)
    assert caught.value.refusal.reason == reason
    assert named in caught.value.refusal.message


@given(st.lists(st.integers(0, 99), unique=True, max_size=12), st.data())
def test_a_grown_list_runs_exactly_what_was_added(numbers: list[int], data: st.DataObject) -> None:
    ordered = [Migration(f"{number:02}.sql", str(number)) for number in sorted(numbers)]
    done = data.draw(st.integers(0, len(ordered)))
    assert pending(applied(*ordered[:done]), data.draw(st.permutations(ordered))) == ordered[done:]
