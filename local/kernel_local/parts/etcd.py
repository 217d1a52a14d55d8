"""etcd, the API server's store. It speaks TLS only and asks for a client certificate, so that no one on this machine
can write around the API server's rights."""

import ssl

from kernel_local import certificates, probe
from kernel_local.part import Command, Part
from kernel_local.toolchain import kube


class Etcd(Part):
    name = "etcd"
    port_names = ("etcd", "etcd_peer")

    async def prepare(self) -> None:
        await kube.build(self.site, self.note)
        certificates.make(self.site.data / "pki")

    def command(self) -> Command:
        pki = self.site.data / "pki"
        client, peer = (f"https://127.0.0.1:{self.site.port(name)}" for name in self.port_names)
        return Command(
            [
                *(kube.program("etcd"), "--name=platform", f"--data-dir={self.home / 'data'}"),
                *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                f"--initial-cluster=platform={peer}",
                *(f"--cert-file={pki / 'etcd.crt'}", f"--key-file={pki / 'etcd.key'}"),
                *("--client-cert-auth", f"--trusted-ca-file={pki / 'ca.crt'}"),
                *(f"--peer-cert-file={pki / 'etcd.crt'}", f"--peer-key-file={pki / 'etcd.key'}"),
                *("--peer-client-cert-auth", f"--peer-trusted-ca-file={pki / 'ca.crt'}"),
                # History is compacted by the API server every 5 minutes; this bounds what is left of it on disk.
                *("--quota-backend-bytes=2147483648", "--snapshot-count=5000", "--log-level=warn"),
            ],
            {"GOMEMLIMIT": "128MiB", "GOGC": "50"},
        )

    async def ready(self) -> bool:
        return await probe.answers(self.site.port("etcd"), "/health", client_tls(self, "etcd-client"))


def client_tls(part: Part, name: str) -> ssl.SSLContext:
    """TLS as the client ``name`` of the platform's own authority."""
    pki = part.site.data / "pki"
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    return context
