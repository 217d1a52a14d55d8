"""A cluster that exists already: the one the caller's kubeconfig points to, in place of our own API server."""

import os

from kernel_local import files
from kernel_local.errors import PartFailed, PlatformError
from kernel_local.part import Part
from kernel_local.processes import Process
from kernel_local.service_account import program
from kernel_local.toolchain import kube


class CurrentCluster(Part):
    """Keeps a copy of the current context, so that a later change of context does not move the platform."""

    name = "kube-apiserver"
    runs_here = False

    @property
    def where(self) -> str:
        return "current context"

    def process(self) -> Process | None:
        return None

    async def start(self) -> bool:
        binary = program("current")
        if binary == kube.program("kubectl"):
            await kube.build(self.site, self.note)
        try:
            chosen = await self.site.processes.call(
                "kubectl-view",
                [binary, "config", "view", "--raw", "--minify", "--flatten", "--output=json"],
                environment=os.environ,
            )
            files.write(self.site.data / "kubeconfig", chosen)
            await self.site.processes.call(
                "kubectl-version",
                [binary, "version", "--request-timeout=10s"],
                environment=dict(os.environ) | {"KUBECONFIG": str(self.site.data / "kubeconfig")},
            )
        except PlatformError as error:
            raise PartFailed(f"kube-apiserver: the current kubeconfig leads to no cluster: {error}") from None
        return False

    async def stop(self, grace: float | None = None) -> bool:
        return True
