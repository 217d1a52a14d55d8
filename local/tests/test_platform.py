"""The whole platform as the operator and its users meet it."""

from kernel_local.testing import PlatformServers


def test_operator_runs_under_its_own_rights(platform: PlatformServers) -> None:
    kubectl = platform.kubectl
    account = "--as=system:serviceaccount:platform-kernel:kernel-operator"
    assert kubectl("auth", "can-i", "patch", "tenants.platform-kernel.io", account).stdout.strip() == "yes"
    assert kubectl("auth", "can-i", "delete", "tenants.platform-kernel.io", account, check=False).stdout.strip() == "no"
    assert kubectl("auth", "can-i", "list", "secrets", account, check=False).stdout.strip() == "no"
    env = platform.operator_env
    assert "kernel_operator:" in env["DATABASE_URL"]
    assert env["KAFKA_USERNAME"] == "kernel_operator"
    assert platform.site.secret("postgres_superuser") not in " ".join(env.values())


def test_operator_comes_back_after_a_kill(platform: PlatformServers) -> None:
    before = platform.operator.pid
    platform.operator.kill()
    assert platform.operator.pid == 0
    platform.operator.start()
    assert platform.operator.pid not in (0, before)


def test_up_again_repairs_what_was_killed(platform: PlatformServers) -> None:
    before = platform.postgres.pid, platform.valkey.pid
    platform.valkey.kill()
    platform.up()
    assert platform.postgres.pid == before[0]
    assert platform.valkey.pid not in (0, before[1])
