"""The sample module's own service (``examples/crm``), where a real one would be a Deployment beside its module.

No part of the platform: ``kernel demo`` starts it, and whatever takes the platform down ends it. It logs in with what
the operator has put into the Secret beside the module.
"""

import sys

from kernel_local import probe
from kernel_local.part import Command, Part
from kernel_local.parts.gateway import SAMPLE
from kernel_local.site import Site


class SampleService(Part):
    name = "service-crm"
    port_names = ()

    def __init__(self, site: Site, database_url: str) -> None:
        super().__init__(site)
        self._database_url = database_url
        self._port = site.port(f"service-{SAMPLE}")

    @property
    def where(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def command(self) -> Command:
        environment = {"DATABASE_URL": self._database_url, "CRM_HOST": "127.0.0.1", "CRM_PORT": str(self._port)}
        return Command([sys.executable, "-m", "crm_service"], environment)

    async def ready(self) -> bool:
        return await probe.answers(self._port, "/ready")
