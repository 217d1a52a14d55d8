"""The service as a process, its document, and what it logs."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
from data_world import A, World, as_member

from kernel_common.analytics import tenant_password
from kernel_data.app import create_app
from kernel_data.settings import Settings
from kernel_local.ports import choose

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


async def run(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kernel_data", *arguments),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_it_serves_until_it_is_told_to_stop(world: World) -> None:
    port = choose(set())
    process = await run("serve", **world.environment, DATA_PORT=str(port))
    address = f"http://127.0.0.1:{port}"
    try:
        async with as_member(address, A) as client, asyncio.timeout(30):
            while True:
                try:
                    async with client.session.get("/ready") as answer:
                        assert answer.status == 200
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.05)
            trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            query = {"filter[note][eq]": "private-value"}
            where = "/api/v1/analytics/sales/deals"
            async with client.session.get(where, params=query, headers={"traceparent": trace}) as answer:
                assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
            async with client.session.get("/metrics") as answer:
                counted = await answer.text()
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    labels = 'method="GET",route="/api/v1/analytics/{module}/{model}",status_code="200"'
    assert f"http_server_requests_total{{{labels}}} 1.0" in counted
    assert "kernel_data_rows_read_total" in counted
    lines = [json.loads(line) for line in said.decode().splitlines()]
    [line] = [line for line in lines if line["logger"] == "kernel_data.access"]
    assert line["msg"] == f"GET {where}"
    assert (line["status"], line["tenant"], line["trace_id"]) == (200, str(A), trace.split("-")[1])
    secrets = (world.environment["KERNEL_MASTER_KEY"], tenant_password(bytes(range(32)), A), "private-value")
    assert not [secret for secret in secrets if secret in said.decode()]


async def test_what_is_missing_is_named_and_nothing_starts() -> None:
    process = await run("serve", CLICKHOUSE_URL="clickhouse:9000", VALKEY_URL="redis://u:secret-Zz9@x:1/0")
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert said.decode().startswith("kernel-data: CLICKHOUSE_URL: ") and said.count(b"\n") == 1
    assert b"KERNEL_MASTER_KEY: Field required" in said and b"secret-Zz9" not in said


async def test_a_port_that_is_taken_is_named(world: World, address: str) -> None:
    process = await run("serve", **world.environment, DATA_PORT=address.rpartition(":")[2])
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert "DATA_PORT: port" in said.decode().splitlines()[-1]


async def test_requests_made_from_its_document_get_what_it_says(address: str, tmp_path: Path) -> None:
    described = tmp_path / "openapi.json"
    document: dict[str, Any] = create_app().openapi()
    operation = document["paths"]["/api/v1/analytics/{module}/{model}"]["get"]
    assert operation["responses"].keys() >= {"200", "400", "403", "404", "422", "503"}
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            parameter["schema"] = {"enum": [{"module": "sales", "model": "deals"}[parameter["name"]]]}
    assert operation.pop("security") == [{"bearer": []}]  # the gateway takes the token, and is not here
    described.write_text(json.dumps(document))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", str(described), f"--url={address}"),
        f"--checks={','.join(CHECKS)}",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=8",
        "--no-shrink",
        "--warnings=off",
        "--suppress-health-check=all",
        "--request-timeout=20",
        *(f"--header=X-Tenant-ID:{A}", f"--header=X-User-ID:{A}"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(120):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()[-8000:]


def test_the_documentation_names_every_setting() -> None:
    page = (Path(__file__).parents[3] / "docs/analytics.md").read_text()
    missing = [name for name in Settings.model_fields if f"`{name.upper()}`" not in page]
    assert not missing
