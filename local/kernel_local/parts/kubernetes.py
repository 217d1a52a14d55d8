"""kube-apiserver and, beside it, the few controllers without which objects would not behave as in a cluster: deleting
a namespace empties it, deleting an owner deletes what it owns, every namespace has its default service account.

There are no nodes and no scheduler: pods stay pending. RBAC is on, anonymous requests are refused, the administrator
has a client certificate, and everyone else a service account token.
"""

import base64
import json
from pathlib import Path

from kernel_local import files, probe
from kernel_local.part import Command, Part
from kernel_local.parts.etcd import client_tls
from kernel_local.toolchain import kube

_CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
)


class ApiServer(Part):
    name = "kube-apiserver"
    needs = ("etcd",)
    port_names = ("kube_apiserver",)
    patience = 120.0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.site.port('kube_apiserver')}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.site.data / "kubeconfig"

    async def prepare(self) -> None:
        files.write(self.kubeconfig, kubeconfig(self.site.data / "pki", self.url, "admin"))

    def command(self) -> Command:
        pki = self.site.data / "pki"
        return Command(
            [
                *(kube.program("kube-apiserver"), f"--etcd-servers=https://127.0.0.1:{self.site.port('etcd')}"),
                *(f"--etcd-cafile={pki / 'ca.crt'}", f"--etcd-certfile={pki / 'etcd-client.crt'}"),
                f"--etcd-keyfile={pki / 'etcd-client.key'}",
                *("--bind-address=127.0.0.1", f"--secure-port={self.site.port('kube_apiserver')}"),
                # Loopback can't be an endpoint of the service `kubernetes`, so don't try.
                *("--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"),
                *(f"--tls-cert-file={pki / 'apiserver.crt'}", f"--tls-private-key-file={pki / 'apiserver.key'}"),
                *(f"--client-ca-file={pki / 'ca.crt'}", "--anonymous-auth=false", "--authorization-mode=RBAC"),
                *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24"),
                *(
                    f"--service-account-key-file={pki / 'sa.pub'}",
                    f"--service-account-signing-key-file={pki / 'sa.key'}",
                ),
                *("--max-requests-inflight=200", "--max-mutating-requests-inflight=100", "--profiling=false"),
                *("--event-ttl=1h", "--v=1"),
            ],
            {"GOMEMLIMIT": "400MiB", "GOGC": "50"},
        )

    async def ready(self) -> bool:
        return await probe.answers(self.site.port("kube_apiserver"), "/readyz", client_tls(self, "admin"))


class ControllerManager(Part):
    name = "kube-controller-manager"
    needs = ("kube-apiserver",)
    port_names = ("kube_controller_manager",)

    async def prepare(self) -> None:
        server = f"https://127.0.0.1:{self.site.port('kube_apiserver')}"
        files.write(self.home / "kubeconfig", kubeconfig(self.site.data / "pki", server, "controller-manager"))

    def command(self) -> Command:
        pki = self.site.data / "pki"
        return Command(
            [
                *(kube.program("kube-controller-manager"), f"--kubeconfig={self.home / 'kubeconfig'}"),
                *(f"--controllers={','.join(_CONTROLLERS)}", "--leader-elect=false", "--concurrent-gc-syncs=4"),
                # Each controller under its own account, as in a cluster: the manager itself may do almost nothing.
                "--use-service-account-credentials=true",
                *("--bind-address=127.0.0.1", f"--secure-port={self.site.port('kube_controller_manager')}"),
                *(f"--tls-cert-file={pki / 'apiserver.crt'}", f"--tls-private-key-file={pki / 'apiserver.key'}"),
                *(f"--root-ca-file={pki / 'ca.crt'}", "--profiling=false", "--v=1"),
            ],
            {"GOMEMLIMIT": "96MiB", "GOGC": "50"},
        )

    async def ready(self) -> bool:
        return await probe.answers(self.site.port("kube_controller_manager"), "/healthz", client_tls(self, "admin"))


def kubeconfig(pki: Path, server: str, client: str, token: str | None = None) -> str:
    """A kubeconfig for the embedded cluster, complete in itself: with the client's certificate, or with a token.
    It is JSON, which every reader of YAML reads."""

    def inline(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    certificate = {"client-certificate-data": f"{client}.crt", "client-key-data": f"{client}.key"}
    user = {"token": token} if token else {key: inline(name) for key, name in certificate.items()}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "platform", "cluster": {"server": server, "certificate-authority-data": inline("ca.crt")}}
            ],
            "users": [{"name": client, "user": user}],
            "contexts": [{"name": "platform", "context": {"cluster": "platform", "user": client}}],
            "current-context": "platform",
        },
        indent=1,
    )
