"""What the operator's Valkey user may not do, and what others may not do to its tables."""

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from kernel_common.ids import tenant_id
from kernel_operator.desired import Unavailable
from kernel_operator.targets.valkey import ValkeyTarget

ACME = tenant_id("acme")


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("GET", "rbac:tenant:user"),
        ("SET", "session:1", "x"),
        ("PUBLISH", "notify:everyone", "x"),
        ("MONITOR",),
    ],
    ids=lambda command: command[0],
)
async def test_the_operator_may_not(valkey, target, command):
    async with Redis.from_url(valkey.operator_url) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command)


async def test_a_service_reads_limits_and_can_not_write_them(valkey, target, admin, tenant):
    await target.apply_tenants([tenant("acme")])
    await admin.acl_setuser(
        "probe_app",
        enabled=True,
        passwords=["+probe"],
        keys=["rate_limit:*"],
        categories=["+@read"],
        reset=True,
    )
    address = valkey.operator_url.partition("@")[2]
    try:
        async with Redis.from_url(f"redis://probe_app:probe@{address}") as app:
            assert await app.get(f"rate_limit:config:{ACME}")
            for command in (
                ("SET", f"rate_limit:config:{ACME}", "{}"),
                ("DEL", f"rate_limit:config:{ACME}"),
                ("DEL", f"tenant:blocked:{ACME}"),
                ("HSET", "routes:table", "crm", "{}"),
                ("PUBLISH", "kernel:changes", "routes 1"),
            ):
                with pytest.raises(NoPermissionError):
                    await app.execute_command(*command)
    finally:
        await admin.acl_deluser("probe_app")


async def test_nobody_comes_in_without_a_password(valkey):
    address = valkey.operator_url.partition("@")[2]
    async with Redis.from_url(f"redis://{address}") as stranger:
        with pytest.raises((AuthenticationError, RedisError)):
            await stranger.get(f"rate_limit:config:{ACME}")


async def test_a_wrong_password_is_unavailable_and_not_repeated_in_the_message(valkey):
    url = valkey.operator_url.replace(valkey.operator_url.split(":")[2].split("@")[0], "wrong-secret")
    target = ValkeyTarget(url)
    try:
        with pytest.raises(Unavailable) as caught:
            await target.ping()
    finally:
        await target.close()
    assert "wrong-secret" not in str(caught.value)
    assert caught.value.system == "Valkey"


async def test_a_missing_right_is_told(valkey, admin, tenant):
    await admin.acl_setuser("probe_weak", enabled=True, passwords=["+probe"], keys=["tenant:*"], categories=["+@read"])
    target = ValkeyTarget(f"redis://probe_weak:probe@{valkey.operator_url.partition('@')[2]}")
    try:
        with pytest.raises(Unavailable, match="lacks a right"):
            await target.apply_tenants([tenant("acme")])
    finally:
        await target.close()
        await admin.acl_deluser("probe_weak")


async def test_a_dead_server_is_unavailable_and_converges_when_it_is_back(valkey, admin, target, module, tenant, dump):
    acme = tenant("acme")
    await target.apply_tenants([acme])
    valkey.kill()
    try:
        for call in (
            target.apply_tenants([acme]),
            target.apply_modules([module()]),
            target.remove_tenant(acme.id),
            target.remove_module("crm"),
            target.ping(),
        ):
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.system == "Valkey"
            assert "127.0.0.1" not in str(caught.value)
    finally:
        valkey.start()
        await admin.connection_pool.disconnect()
    await target.apply_tenants([acme])
    await target.apply_modules([module()])
    held = await dump()
    assert f"rate_limit:config:{acme.id}" in held
    assert "crm" in held["routes:table"]
