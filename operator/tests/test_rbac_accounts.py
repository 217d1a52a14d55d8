"""What the service accounts of the platform may do in the cluster, asked of the API server itself."""

import pytest

from kernel_local.testing import KubernetesServer

MAY = {
    "kernel-gateway": {"tenants.platform-kernel.io": {"get", "create"}},
    "kernel-operator": {
        "tenants.platform-kernel.io": {"get", "list", "watch", "patch"},
        "tenants.platform-kernel.io/status": {"patch"},
        "kernelmodules.platform-kernel.io": {"get", "list", "watch", "patch"},
        "kernelmodules.platform-kernel.io/status": {"patch"},
        "kernelmodules.platform-kernel.io/finalizers": {"update"},
        "secrets": {"get", "create", "patch", "delete"},
        "configmaps": {"get"},
        "events.events.k8s.io": {"create"},
    },
}


def rights(server: KubernetesServer, account: str) -> dict[str, set[str]]:
    user = f"system:serviceaccount:platform-kernel:{account}"
    found: dict[str, set[str]] = {}
    for line in server.kubectl("auth", "can-i", "--list", f"--as={user}", "--no-headers").stdout.splitlines():
        resource, _, rest = line.partition(" ")
        if resource:
            found.setdefault(resource, set()).update(rest.rpartition("[")[2].rstrip("]").split())
    return found


@pytest.mark.parametrize("account", MAY)
def test_an_account_may_what_it_needs_and_nothing_else(account: str, cluster_of_ours: KubernetesServer) -> None:
    everyones = rights(cluster_of_ours, "nobody")
    found = {name: verbs for name, verbs in rights(cluster_of_ours, account).items() if name not in everyones}
    assert found == MAY[account]
