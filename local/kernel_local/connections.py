"""Where each system is and who may log in: our own servers, or ones that the caller's environment names.

Every ``kernel up`` looks at DATABASE_URL, KAFKA_BROKERS (with its companions), CLICKHOUSE_URL and VALKEY_URL: an
administrator's connection there replaces our own server. They hold passwords, so they are kept with the secrets.
A variable that names this platform's own server (after ``eval "$(kernel env)"``) replaces nothing.
"""

import json
from collections.abc import Mapping
from urllib.parse import quote, urlsplit, urlunsplit

from kernel_local.errors import PlatformError
from kernel_local.parts import clickhouse, kafka, postgres, valkey
from kernel_local.site import Site

SYSTEMS = {
    "postgres": ("DATABASE_URL", ("postgres", "postgresql")),
    "valkey": ("VALKEY_URL", ("redis", "rediss", "valkey", "valkeys")),
    "clickhouse": ("CLICKHOUSE_URL", ("http", "https")),
}
"""System -> the variable that replaces it, and the schemes it may have."""
DATABASE = "platform"


class Connections:
    """The logins of one platform. Nothing here is for printing, except what ``where`` returns."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def adopt(self, environment: Mapping[str, str]) -> None:
        """Takes over what the environment names. Raises PlatformError for a URL that can't be one."""
        own = self.administrator(external=False)
        for system, (variable, schemes) in SYSTEMS.items():
            url = environment.get(variable, "")
            if url and (urlsplit(url).scheme not in schemes or not urlsplit(url).hostname):
                raise PlatformError(f"{variable} is not a URL like {schemes[0]}://user:password@host:port")
            self.site.keep_secret(f"external_{system}", url if url and url != own[variable] else None)
        brokers = environment.get("KAFKA_BROKERS", "")
        values = {n: v for n, v in environment.items() if n.startswith("KAFKA_")}
        external = bool(brokers) and brokers != own["KAFKA_BROKERS"]
        self.site.keep_secret("external_kafka", json.dumps(values) if external else None)

    def external(self, system: str) -> str | None:
        """What replaces our own server: a URL, or for Kafka its variables as JSON."""
        return self.site.known_secret(f"external_{system}")

    def where(self, system: str) -> str:
        """Host and port of an external system, for people."""
        given = self.external(system) or ""
        if system == "kafka":
            return str(json.loads(given or "{}").get("KAFKA_BROKERS", ""))
        parts = urlsplit(given)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def administrator(self, *, external: bool = True) -> dict[str, str]:
        """The variables of someone who may do everything: what ``kernel env`` prints."""
        site = self.site
        own = {
            "DATABASE_URL": postgres.Postgres(site).url(database=DATABASE),
            "VALKEY_URL": valkey.Valkey(site).url(),
            "CLICKHOUSE_URL": clickhouse.ClickHouse(site).url(),
            "CLICKHOUSE_DATABASE": clickhouse.DATABASE,
            **self._kafka(kafka.Kafka(site).brokers, "SASL_PLAINTEXT", "PLAIN", kafka.ADMIN),
        }
        if external:
            given = {SYSTEMS[s][0]: url for s in SYSTEMS if (url := self.external(s))}
            own |= given | json.loads(self.external("kafka") or "{}")
        return own

    def operator(self) -> dict[str, str]:
        """The variables of the operator: the same servers under its own logins."""
        admin, secret = self.administrator(), self.site.secret
        database = _login(admin["DATABASE_URL"], "kernel_operator", secret("postgres_kernel_operator"))
        protocol = admin.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
        return {
            "DATABASE_URL": urlunsplit(urlsplit(database)._replace(path=f"/{DATABASE}")),
            "VALKEY_URL": _login(admin["VALKEY_URL"], valkey.OPERATOR, secret(f"valkey_{valkey.OPERATOR}")),
            "CLICKHOUSE_URL": _login(
                admin["CLICKHOUSE_URL"], clickhouse.OPERATOR, secret(f"clickhouse_{clickhouse.OPERATOR}")
            ),
            "CLICKHOUSE_DATABASE": clickhouse.DATABASE,
            **self._kafka(admin["KAFKA_BROKERS"], protocol, "SCRAM-SHA-256", kafka.OPERATOR),
        }

    def gateway(self) -> dict[str, str]:
        """The variables of the gateway: PostgreSQL and Valkey under its own logins."""
        admin, secret = self.administrator(), self.site.secret
        database = _login(admin["DATABASE_URL"], "kernel_gateway", secret("postgres_kernel_gateway"))
        return {
            "DATABASE_URL": urlunsplit(urlsplit(database)._replace(path=f"/{DATABASE}")),
            "VALKEY_URL": _login(admin["VALKEY_URL"], valkey.GATEWAY, secret(f"valkey_{valkey.GATEWAY}")),
        }

    def source(self) -> dict[str, str]:
        """The variables of change data capture's source: PostgreSQL and Kafka."""
        admin = self.administrator()
        database = _login(admin["DATABASE_URL"], "kernel_cdc", self.site.secret("postgres_kernel_cdc"))
        protocol = admin.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
        return {
            "DATABASE_URL": urlunsplit(urlsplit(database)._replace(path=f"/{DATABASE}")),
            **self._kafka(admin["KAFKA_BROKERS"], protocol, "SCRAM-SHA-256", kafka.CDC),
        }

    def sink(self) -> dict[str, str]:
        """The variables of its sink: Kafka, ClickHouse and Valkey."""
        admin, secret = self.administrator(), self.site.secret
        protocol = admin.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
        return {
            "CLICKHOUSE_URL": self.writer(),
            "CLICKHOUSE_DATABASE": clickhouse.DATABASE,
            "VALKEY_URL": _login(admin["VALKEY_URL"], valkey.CDC, secret(f"valkey_{valkey.CDC}")),
            **self._kafka(admin["KAFKA_BROKERS"], protocol, "SCRAM-SHA-256", kafka.SINK),
        }

    def analytics(self) -> dict[str, str]:
        """The variables of the analytics API: ClickHouse without a user, as it asks as each tenant's, and Valkey."""
        admin = self.administrator()
        clickhouse_url = urlsplit(admin["CLICKHOUSE_URL"])
        return {
            "CLICKHOUSE_URL": urlunsplit(clickhouse_url._replace(netloc=clickhouse_url.netloc.rpartition("@")[2])),
            "CLICKHOUSE_DATABASE": clickhouse.DATABASE,
            "VALKEY_URL": _login(admin["VALKEY_URL"], valkey.DATA, self.site.secret(f"valkey_{valkey.DATA}")),
        }

    def writer(self) -> str:
        """ClickHouse as the user that writes what change data capture brings."""
        secret = self.site.secret(f"clickhouse_{clickhouse.WRITER}")
        return _login(self.administrator()["CLICKHOUSE_URL"], clickhouse.WRITER, secret)

    def _kafka(self, brokers: str, protocol: str, mechanism: str, user: str) -> dict[str, str]:
        return {
            "KAFKA_BROKERS": brokers,
            "KAFKA_SECURITY_PROTOCOL": protocol,
            "KAFKA_SASL_MECHANISM": mechanism,
            "KAFKA_USERNAME": user,
            "KAFKA_PASSWORD": self.site.secret(f"kafka_{user}"),
        }


def _login(url: str, user: str, password: str) -> str:
    """The same server under another login."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{quote(user)}:{quote(password, safe='')}@{host}{port}"))
