"""The browser SDK in a real browser, several tabs, against the running gateway."""

import os
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest
from e2e_gateway import owner
from e2e_manifests import tenant

REPOSITORY = Path(__file__).parents[2]
SDK = REPOSITORY / "sdk" / "browser"


@pytest.fixture(scope="module")
def sdk() -> Path:
    """The SDK, built, with Node and Chromium on this machine."""
    done = subprocess.run(
        [REPOSITORY / "scripts" / "browser"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return SDK


def npm(*arguments: str, seconds: float, **environment: str) -> str:
    done = subprocess.run(
        ["npm", "--prefix", str(SDK), "run", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_the_sdk_is_clean_and_its_parts_work(sdk: Path) -> None:
    npm("lint", seconds=120)
    assert "# fail 0" in npm("test", seconds=180)


def test_many_tabs_refresh_once(sdk: Path, cluster, provider) -> None:
    """N tabs, an expired token: one refresh on the wire; without any channel the grace window saves each tab."""
    name = f"tabs-{uuid4().hex[:6]}"
    root = f"root-{name}"
    cluster.apply(tenant(root, tier="owner"), tenant(name, parent=root))
    cluster.wait_ready("tenant", root, name)
    email, password = owner(cluster, name)
    said = npm(
        "test:browser",
        seconds=400,
        KERNEL_URL=provider.gateway_url,
        KERNEL_EMAIL=email,
        KERNEL_PASSWORD=password,
        KERNEL_PROTECTED_PATH="/auth/me",
    )
    assert "# fail 0" in said
    for each in (name, root):
        cluster.delete("tenant", each)
