"""The development ClickHouse: the real engine behind our own small HTTP server (``kernel_local.clickhouse``)."""

import asyncio
import base64
import hashlib
import importlib.util
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from kernel_local import files, probe
from kernel_local.errors import PartFailed
from kernel_local.part import Command, Part
from kernel_local.site import Site

ADMIN, OPERATOR, WRITER = "default", "kernel_operator", "cdc_writer"
DATABASE = "analytics"


class ClickHouse(Part):
    name = "clickhouse"
    port_names = ("clickhouse",)
    grace = 20.0

    def url(self, user: str = ADMIN) -> str:
        return f"http://{user}:{self.site.secret(f'clickhouse_{user}')}@127.0.0.1:{self.site.port(self.name)}"

    async def prepare(self) -> None:
        files.write(self.home / "password", self.site.secret(f"clickhouse_{ADMIN}"))

    def command(self) -> Command:
        return Command(
            [
                *(sys.executable, "-m", "kernel_local.clickhouse", "--data", self.home / "data"),
                *("--port", str(self.site.port(self.name)), "--password-file", self.home / "password"),
            ],
            {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )

    async def ready(self) -> bool:
        return await probe.answers(self.site.port(self.name), "/ping")

    async def provision(self) -> None:
        await bootstrap(self.site, self.url())


async def bootstrap(site: Site, admin_url: str) -> None:
    """Runs the administrator's script against a server: the database, the operator, the writer. It may be repeated."""
    digests = {
        f"{{{name}_password_sha256}}": hashlib.sha256(site.secret(f"clickhouse_{user}").encode()).hexdigest()
        for name, user in (("operator", OPERATOR), ("writer", WRITER))
    }
    text = bootstrap_script().read_text()
    for placeholder, digest in digests.items():
        text = text.replace(placeholder, digest)
    await asyncio.to_thread(_run, admin_url, [s for s in text.split(";\n") if _code(s).strip()])


def bootstrap_script() -> Path:
    """The operator's own script. Found as a file: this package does not import the operator."""
    spec = importlib.util.find_spec("kernel_operator")
    if spec is None or spec.origin is None:
        raise PartFailed("clickhouse: the package kernel-operator is not installed: run `make up`, or `uv sync`")
    return Path(spec.origin).parent / "targets/clickhouse/bootstrap.sql"


def _run(url: str, statements: list[str]) -> None:
    """Sends statements one by one. The error says which one failed, by its first words: the rest may hold a digest."""
    parts = urlsplit(url)
    login = base64.b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
    address = f"{parts.scheme}://{parts.hostname}:{parts.port or 8123}/"
    for statement in statements:
        request = urllib.request.Request(  # noqa: S310 - http or https, checked where the URL is read
            address, statement.encode(), {"Authorization": f"Basic {login}"}
        )
        try:
            # No proxy: the server is this machine's, or one that was named by its URL.
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
                pass
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace").strip().splitlines()[:1]
            words = " ".join(quote(w, safe="`_.*") for w in _code(statement).split()[:4])
            raise PartFailed(f"clickhouse: {words}...: {said[0][:200] if said else error.reason}") from None
        except OSError as error:
            raise PartFailed(f"clickhouse can't be reached: {error}") from None


def _code(statement: str) -> str:
    return "\n".join(line for line in statement.splitlines() if not line.lstrip().startswith("--"))
