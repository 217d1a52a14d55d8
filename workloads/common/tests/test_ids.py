"""Ids are what their readers rely on: stable for tenants, ordered and well-formed for the rest."""

from uuid import UUID

from kernel_common.ids import tenant_id, uuid7


def test_a_tenants_id_never_changes() -> None:
    assert tenant_id("acme") == UUID("df6b8595-a477-55a1-a8a1-af255e884c1b"), "ids are data: they were given out"
    assert tenant_id("acme") != tenant_id("acme2")


def test_uuid7_is_well_formed_and_sorts_by_time() -> None:
    made = [uuid7() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {(u.version, u.variant) for u in made} == {(7, "specified in RFC 4122")}
    stamps = [u.int >> 80 for u in made]
    assert stamps == sorted(stamps)
