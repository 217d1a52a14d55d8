"""The OpenAPI document is true: requests made from it, good and bad, get only answers that it names, and no 500."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from gateway_api import SomeTenant

from kernel_gateway.api.app import document
from kernel_gateway.settings import Settings

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "allow_header_conformance",
    "ignored_auth",
)


def test_every_operation_names_its_errors_and_an_id() -> None:
    ids = []
    for path, operations in document()["paths"].items():
        for operation in operations.values():
            ids.append(operation["operationId"])
            assert "422" not in operation["responses"], path
            if path.startswith("/api/v1"):
                assert {"413", "429", "500", "503"} <= set(operation["responses"]), path
                assert "400" in operation["responses"] or "requestBody" not in operation, path
                assert not operation.get("security") or {"401", "403"} <= set(operation["responses"]), path
    assert len(set(ids)) == len(ids) > 20


@pytest.mark.parametrize(
    ("phases", "examples"),
    [("examples,fuzzing", 2), pytest.param("examples,coverage,fuzzing", 20, marks=pytest.mark.soak)],
)
async def test_requests_made_from_it_get_what_it_says(
    api: str, a_tenant: Callable[..., Awaitable[SomeTenant]], tmp_path: Path, phases: str, examples: int
) -> None:
    owner = (await a_tenant()).owner
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(document()))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        str(described),
        f"--url={api}",
        f"--checks={','.join(CHECKS)}",
        f"--phases={phases}",
        f"--max-examples={examples}",
        "--no-shrink",
        "--warnings=off",
        "--suppress-health-check=all",
        "--request-timeout=20",
        f"--header=Authorization:{owner.headers['Authorization']}",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(900):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()[-8000:]


def test_the_documentation_names_every_setting() -> None:
    page = (Path(__file__).parents[4] / "docs/login.md").read_text()
    missing = [name for name in Settings.model_fields if f"`{name.upper()}`" not in page]
    assert not missing
