"""The command ``kernel`` as a person runs it, in processes of its own."""

import os
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_local import paths
from kernel_local.parts import postgres as postgres_part
from kernel_local.parts.kafka import Kafka
from kernel_local.platform import PART_NAMES
from kernel_local.site import Site
from kernel_local.testing import ClickHouseServer, KafkaServer, KubernetesServer, PostgresServer, ValkeyServer
from kernel_local.toolchain import jars, kube

KERNEL = [sys.executable, "-m", "kernel_local"]
REPLACEMENTS = ("DATABASE_URL", "KAFKA_BROKERS", "CLICKHOUSE_URL", "VALKEY_URL", "KERNEL_DATA", "KUBECONFIG")


class Command:
    """Runs ``kernel`` on one data directory."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data = data
        clean = {name: value for name, value in os.environ.items() if name not in REPLACEMENTS}
        self.environment = clean | {"KERNEL_DATA": str(data), "COLUMNS": "200"} | environment

    def __call__(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [*KERNEL, *arguments], env=self.environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*KERNEL, *arguments], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def left(self) -> list[str]:
        """Command lines of living processes that belong to this data directory."""
        marks = (str(self.data), Site(self.data).key)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_text().replace("\0", " ")
                    variables = (entry / "environ").read_text(errors="replace")
                except OSError:
                    continue
                # The operator has the directory in its environment only.
                if any(mark in line + variables for mark in marks):
                    found.append(line)
        return found

    def remove(self) -> None:
        self("down", "--delete-data", check=False)
        assert self.left() == []


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "data dir")
    try:
        yield command
    finally:
        command.remove()


def test_a_platform_from_birth_to_removal(kernel: Command) -> None:
    """One life, in order, because each start costs seconds."""
    first = kernel("up")
    assert "operator: ready" in first.stdout
    assert stat.S_IMODE(kernel.data.stat().st_mode) == 0o700
    assert stat.S_IMODE((kernel.data / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((kernel.data / "kubeconfig").stat().st_mode) == 0o600

    again = kernel("up")
    assert "it was up already" in again.stdout
    shown = kernel("status").stdout
    assert shown.count("running") == len(PART_NAMES)

    script = 'eval "$(' + shlex.join([*KERNEL, "env"]) + ')"; printf %s "$DATABASE_URL|$KUBECONFIG"'
    done = subprocess.run(["sh", "-c", script], env=kernel.environment, capture_output=True, text=True, check=True)
    url, kubeconfig = done.stdout.split("|")
    assert url.startswith("postgresql://postgres:")
    assert Path(kubeconfig).exists()
    # With the platform's own addresses in the environment, nothing is taken for somebody else's server.
    own = Command(kernel.data, DATABASE_URL=url, KUBECONFIG=kubeconfig)
    assert "it was up already" in own("up").stdout
    assert "external" not in own("status").stdout

    secrets = [value for value in Site(kernel.data)._secrets.values() if len(value) > 20]
    assert len(secrets) >= 8
    everything = first.stdout + first.stderr + again.stdout + shown + "".join(kernel.left())
    everything += "".join(path.read_text(errors="replace") for path in (kernel.data / "logs").iterdir())
    assert not [secret[:4] for secret in secrets if secret in everything]

    assert kernel("psql", "-At", "-c", "CREATE TABLE kept AS SELECT 7 AS n").returncode == 0
    kernel("kubectl", "create", "namespace", "kept")
    assert "listening" in kernel("logs", "postgres").stdout
    unknown = kernel("logs", "nonsense", check=False)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)

    assert "stopped" in kernel("down").stdout
    assert kernel.left() == []
    assert kernel("status", check=False).returncode == 1
    assert "nothing was running" in kernel("down").stdout

    kernel("up")
    assert kernel("psql", "-At", "-c", "SELECT n FROM kept").stdout == "7\n"
    assert kernel("kubectl", "get", "namespace", "kept", "-o", "name").stdout == "namespace/kept\n"
    kernel("up", "--fresh")
    assert kernel("psql", "-At", "-c", "SELECT to_regclass('kept')").stdout == "\n"
    assert kernel("kubectl", "get", "namespace", "kept", check=False).returncode == 1


def wait_for_record(command: Command, name: str, process: "subprocess.Popen[str]") -> None:
    """Returns when ``up`` has just started the process ``name``."""
    deadline = time.monotonic() + 120
    while not (command.data / "run" / f"{name}.pid").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{name} was never started"
        time.sleep(0.002)


MOMENTS = ["postgres-initdb", "etcd", "kafka", "operator"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_down_ends_what_a_killed_up_left(kernel: Command, moment: str) -> None:
    process = kernel.begin("up")
    wait_for_record(kernel, moment, process)
    process.kill()
    process.communicate(timeout=10)
    assert kernel("down").returncode == 0
    assert kernel.left() == []


@pytest.mark.parametrize(
    ("moment", "number"), list(zip(MOMENTS, ("SIGINT", "SIGTERM", "SIGINT", "SIGHUP"), strict=True))
)
def test_an_interrupted_up_leaves_nothing(kernel: Command, moment: str, number: str) -> None:
    process = kernel.begin("up")
    wait_for_record(kernel, moment, process)
    process.send_signal(signal.Signals[number])
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert kernel.left() == []
    assert Site(kernel.data).processes.recorded() == {}


def test_a_second_interrupt_hurries(kernel: Command) -> None:
    process = kernel.begin("up")
    wait_for_record(kernel, "operator", process)
    kafka = Site(kernel.data).processes.find("kafka")
    assert kafka is not None
    os.kill(kafka.pid, signal.SIGSTOP)  # it will not stop by itself
    process.send_signal(signal.SIGINT)
    while Site(kernel.data).processes.find("valkey") is not None:  # the first one has been heard
        assert process.poll() is None
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert kernel.left() == []
    assert time.monotonic() - began < Kafka.grace


def test_up_after_a_killed_up_completes_it(kernel: Command) -> None:
    process = kernel.begin("up")
    wait_for_record(kernel, "kube-apiserver", process)
    kafka = Site(kernel.data).processes.find("kafka")
    process.kill()
    process.communicate(timeout=10)
    kernel("up")
    assert kernel("status").stdout.count("running") == len(PART_NAMES)
    assert kafka is None or Site(kernel.data).processes.find("kafka") is not None


def test_two_platforms_side_by_side(kernel: Command, tmp_path: Path) -> None:
    other = Command(tmp_path / "other")
    try:
        kernel("up")
        other("up")
        mine, theirs = (Site(c.data) for c in (kernel, other))
        ports = [site._state["ports"].values() for site in (mine, theirs)]
        assert not set(ports[0]) & set(ports[1])
        other("kubectl", "create", "namespace", "other")
        assert kernel("kubectl", "get", "namespace", "other", check=False).returncode == 1
        other("down")
        assert kernel("status").returncode == 0
    finally:
        other.remove()


def test_everything_replaced(
    kernel: Command,
    postgres: PostgresServer,
    valkey: ValkeyServer,
    kafka: KafkaServer,
    clickhouse: ClickHouseServer,
    kubernetes: KubernetesServer,
) -> None:
    """With a server of each kind named by its URL, only the operator, the gateway and Envoy are ours."""
    command = Command(
        kernel.data,
        DATABASE_URL=postgres.admin_url,
        VALKEY_URL=valkey.admin_url,
        CLICKHOUSE_URL=clickhouse.admin_url,
        KAFKA_BROKERS=kafka.brokers,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_MECHANISM="PLAIN",
        KAFKA_USERNAME=kafka.admin_conf["sasl.username"],
        KAFKA_PASSWORD=kafka.admin_conf["sasl.password"],
        KUBECONFIG=str(kubernetes.kubeconfig),
    )
    try:
        command("up", "--cluster", "current")
        shown = command("status").stdout
        assert (shown.count("external"), shown.count("running")) == (5, 6)
        assert set(Site(kernel.data).processes.recorded()) == {
            *("operator", "gateway", "envoy", "cdc-source", "cdc-sink", "data")
        }
        assert postgres.admin_url not in shown
        assert command("kubectl", "get", "crd", "tenants.platform-kernel.io").returncode == 0
        command("down")
        assert kubernetes.kubectl("get", "ns").returncode == 0
        assert valkey.pid
    finally:
        for server in (postgres, valkey, kafka, clickhouse):
            server.stop()
            server.start()  # gives the operator's logins back the passwords that other tests know


def test_errors_are_one_line(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("x")
    empty_cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/nonexistent", "UV": ""}
    cases = [
        (Command(full), ["up"], 1, "holds something that is not a platform's"),
        (Command(tmp_path / "none"), ["status"], 1, "there is no platform"),
        (Command(tmp_path / "none"), ["psql"], 1, "there is no platform"),
        (Command(tmp_path / "url", VALKEY_URL="localhost:6379"), ["up"], 1, "VALKEY_URL is not a URL"),
        (Command(tmp_path / "bare", **empty_cache), ["up"], 1, "uv is not to be found"),
    ]
    for command, arguments, code, message in cases:
        done = command(*arguments, check=False)
        assert (done.returncode, message in done.stderr) == (code, True), done.stdout + done.stderr
        assert done.stderr.count("\n") == 1
        assert command.left() == []
        if command.data != full:
            command.remove()


def test_help_is_quick() -> None:
    """Heavy modules are not imported for it: the sum of what it costs is an interpreter and typer."""
    code = "import sys; sys.argv = ['kernel', '--help']\nfrom kernel_local.__main__ import main\ntry: main()\n"
    code += (
        "except SystemExit: pass\nprint([m for m in ('asyncpg', 'kubernetes', 'redis', 'psutil') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A home of mode 0700 that belongs to an ordinary user, and a Python that this user can run."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; everything else here already runs as an ordinary one")
    base = Path("/tmp/platform-kernel-stranger")
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(mode=0o755)
    home, environment = base / "home", base / "venv"
    try:
        subprocess.run(
            [uv(), "sync", "--frozen", "--all-packages", "--no-dev", "--quiet", "--python", "/usr/bin/python3"],
            cwd=paths.REPOSITORY,
            env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment)},
            check=True,
            timeout=240,
        )
        cache = home / ".cache/platform-kernel"
        cache.mkdir(parents=True)
        for folder in (kube.folder(), jars.folder()):
            shutil.copytree(folder, cache / folder.name, symlinks=True)
        # Somebody in the list of users: PostgreSQL asks for its own name.
        subprocess.run(["chown", "-R", "nobody", str(home)], check=True)
        home.chmod(0o700)
        yield home, environment / "bin/python"
    finally:
        shutil.rmtree(base, ignore_errors=True)


def uv() -> str:
    from kernel_local.toolchain.uv import find

    return str(find())


def test_an_ordinary_user_with_a_closed_home(stranger: tuple[Path, Path]) -> None:
    home, python = stranger
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "COLUMNS": "200"}

    def kernel(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [python, "-m", "kernel_local", *arguments],
            env=environment,
            cwd="/",
            user="nobody",
            group=pwd.getpwnam("nobody").pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    try:
        done = kernel("up")
        assert done.returncode == 0, done.stdout + done.stderr
        assert kernel("status").stdout.count("running") == len(PART_NAMES)
        data = home / ".local/state/platform-kernel"
        assert (data / "postgres/cluster/PG_VERSION").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        assert not (postgres_part.SHARED / Site(data).key).exists()
    finally:
        assert kernel("down").returncode == 0


def test_ports_of_a_sleeping_platform_may_be_taken(kernel: Command) -> None:
    kernel("up")
    kernel("down")
    before = dict(Site(kernel.data)._state["ports"])
    taken = [before[name] for name in ("postgres", "kafka_controller", "etcd")]
    squatters = [socket.create_server(("127.0.0.1", port)) for port in taken]
    try:
        kernel("up")
        after = Site(kernel.data)._state["ports"]
        assert not set(after.values()) & set(taken)
        assert {n: p for n, p in after.items() if p == before[n]}.keys() == before.keys() - {
            *("postgres", "kafka_controller", "etcd"),
        }
        assert kernel("kubectl", "get", "namespace", "default", "-o", "name").stdout == "namespace/default\n"
    finally:
        for squatter in squatters:
            squatter.close()
