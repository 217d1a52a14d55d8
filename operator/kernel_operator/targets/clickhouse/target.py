"""ClickHouse: a user a tenant, a table with its policy and view a model."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from kernel_common.analytics import USER_PREFIX, tenant_user
from kernel_operator.desired import ModuleState, Outcome, Refusal, TenantState
from kernel_operator.targets.clickhouse import users
from kernel_operator.targets.clickhouse.client import ClickHouse, bounded
from kernel_operator.targets.clickhouse.comparison import Step, compare
from kernel_operator.targets.clickhouse.erasure import erase_again, erase_tenant
from kernel_operator.targets.clickhouse.observed import Observed, observed_tables
from kernel_operator.targets.clickhouse.optimize import MayBegin, optimize
from kernel_operator.targets.clickhouse.removal import removal_steps
from kernel_operator.targets.clickhouse.sql import text
from kernel_operator.targets.clickhouse.tables import POLICIES, AnalyticsTable, analytics_tables
from kernel_operator.targets.clickhouse.users import Lack, ObservedUser

_STATEMENTS_AT_ONCE = 12
_NAMES_IN_A_QUESTION = 500
"""More than the queue gives at once: a comparison of everything would else read all users once a batch."""
_TEXTS_IN_A_QUESTION = 50


class ClickHouseTarget:
    """Every method raises Unavailable when the server can't be asked; the same call is then repeated."""

    def __init__(self, url: str, database: str, master_key: bytes) -> None:
        self._client = ClickHouse(url)
        self._database = database
        self._master_key = master_key
        self._canonical: dict[str, str] = {}

    async def observe_tenants(self, tenants: Iterable[UUID] | None = None) -> dict[str, ObservedUser]:
        """The tenants' users that exist, by name; all there are when ``tenants`` is None or many."""
        wanted = [tenant_user(tenant) for tenant in tenants] if tenants is not None else []
        everyone = tenants is None or len(wanted) > _NAMES_IN_A_QUESTION
        about: dict[str, str | int | Sequence[str]] = {
            "prefix": USER_PREFIX,
            "all": int(everyone),
            "names": [] if everyone else wanted,
        }
        found, grants = await bounded(
            2,
            self._client.rows(text("observe_users"), **about),
            self._client.rows(text("observe_grants"), **about),
        )
        return users.observed_users(found, grants)

    async def apply_tenants(self, tenants: Sequence[TenantState], *, complete: bool = False) -> dict[UUID, Outcome]:
        """The users of ``tenants``. ``complete``: these are all tenants there are, so that users of
        others are dropped as well."""
        observed = await self.observe_tenants(None if complete else [tenant.id for tenant in tenants])
        lacks = {
            tenant.id: users.compare(
                observed.get(tenant_user(tenant.id)), blocked=tenant.blocked, database=self._database
            )
            for tenant in tenants
        }
        strangers = sorted(set(observed) - {tenant_user(tenant.id) for tenant in tenants}) if complete else []
        await self._reach(lacks, strangers)
        clauses = {
            Lack.USER: "created the ClickHouse user",
            Lack.GRANT: "granted the ClickHouse user its right",
            Lack.REPLACEMENT: "repaired the ClickHouse user",
            Lack.REMOVAL: "dropped the ClickHouse user",
        }
        return {tenant: Outcome([clauses[lack]] if lack else []) for tenant, lack in lacks.items()}

    async def _reach(self, lacks: Mapping[UUID, Lack | None], strangers: Sequence[str]) -> None:
        removed = [tenant_user(tenant) for tenant, lack in lacks.items() if lack is Lack.REMOVAL]
        statements = [users.drop_sql(name) for name in [*removed, *strangers]]
        statements += [
            users.create_sql(self._master_key, tenant, replace=lack is Lack.REPLACEMENT)
            for tenant, lack in lacks.items()
            if lack in (Lack.USER, Lack.REPLACEMENT)
        ]
        await self._run_all(statements)
        granted = [t for t, lack in lacks.items() if lack in (Lack.USER, Lack.REPLACEMENT, Lack.GRANT)]
        await self._run_all(users.grant_sqls(self._database, granted))

    async def remove_tenant(self, tenant: UUID, *, drop_data: bool) -> Outcome:
        """Drops the tenant's user; with ``drop_data`` its rows in every analytics table too."""
        user = tenant_user(tenant)
        changes = []
        if user in await self.observe_tenants([tenant]):
            await self._client.run(users.drop_sql(user))
            changes.append("dropped the ClickHouse user")
        if drop_data:
            tables = [name for name, found in (await self.observe_tables()).items() if _holds_rows(found)]
            changes += await erase_tenant(self._client, self._database, tables, tenant)
        return Outcome(changes)

    async def erase_again(self, tenants: Sequence[UUID]) -> Outcome:
        """Removes rows of ``tenants``, whose data was deleted, that came late. See ``erasure.erase_again``."""
        tables = [name for name, found in (await self.observe_tables()).items() if _holds_rows(found)]
        return Outcome(await erase_again(self._client, self._database, tables, tenants))

    async def observe_tables(self, slugs: Iterable[str] | None = None) -> dict[str, Observed]:
        """Tables, views and policies of the modules ``slugs`` (None: of all), by name: three questions
        that are under way together, however many there are."""
        names = "^module_"
        if slugs is not None and len(wanted := list(slugs)) <= _NAMES_IN_A_QUESTION:
            names = f"^module_({'|'.join(wanted)})__"
        about: dict[str, str | int | Sequence[str]] = {"database": self._database, "names": names}
        tables, columns, policies = await bounded(
            3,
            self._client.rows(text("observe_tables"), **about),
            self._client.rows(text("observe_columns"), **about),
            self._client.rows(text("observe_policies"), **about),
        )
        return observed_tables(tables, columns, policies)

    async def apply_module(self, module: ModuleState) -> Outcome:
        return (await self.apply_modules([module]))[module.slug]

    async def apply_modules(self, modules: Sequence[ModuleState]) -> dict[str, Outcome]:
        """Tables, policies and views of ``modules``, by slug. A model that is no longer analysed keeps
        its table. A refused module is left as it is, in all its models."""
        wanted = {module.slug: analytics_tables(self._database, module) for module in modules}
        asked = [slug for slug, tables in wanted.items() if tables]
        observed = await self.observe_tables(asked) if asked else {}
        await self._learn(table.view_select for tables in wanted.values() for table in tables)
        compared = {slug: self.compare_module(tables, observed) for slug, tables in wanted.items()}
        work = {slug: found for slug, found in compared.items() if not isinstance(found, Refusal)}
        await bounded(
            _STATEMENTS_AT_ONCE, *(self._run_in_order(steps) for tables in work.values() for steps in tables if steps)
        )
        return {
            slug: Outcome(refusal=found)
            if isinstance(found, Refusal)
            else Outcome([step.change for steps in found for step in steps])
            for slug, found in compared.items()
        }

    def compare_module(
        self, tables: Sequence[AnalyticsTable], observed: Mapping[str, Observed]
    ) -> list[list[Step]] | Refusal:
        """The statements that each of ``tables`` lacks, in order. Texts must have been learnt by ``_learn``."""
        steps: list[list[Step]] = []
        for table in tables:
            nothing = Observed()
            found = compare(
                table, observed.get(table.name, nothing), observed.get(table.view, nothing), self._canonical.__getitem__
            )
            if isinstance(found, Refusal):
                return found
            steps.append(found)
        return steps

    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome:
        """Drops the module's tables with their rows when ``drop_data``; else they stay, policies and all."""
        if not drop_data:
            return Outcome()
        steps = removal_steps(self._database, slug, await self.observe_tables([slug]))
        await self._run_in_order(steps)
        return Outcome([step.change for step in steps])

    async def optimize(self, since: datetime, may_begin: MayBegin) -> bool:
        """Merges away old versions of rows where that was not done since ``since``, and says whether it got through."""
        return await optimize(self._client, self._database, since, may_begin)

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.close()

    async def _learn(self, selects: Iterable[str]) -> None:
        """Has the server write ``selects`` and the policies' filters its own way, once: only so can they be
        compared with what it stores."""
        texts = dict.fromkeys([*selects, *(f"SELECT {rule.filter}" for rule in POLICIES.values())])
        unknown = [text for text in texts if text not in self._canonical]
        for start in range(0, len(unknown), _TEXTS_IN_A_QUESTION):
            part = unknown[start : start + _TEXTS_IN_A_QUESTION]
            rows = await self._client.rows(
                "SELECT arrayMap(t -> formatQuerySingleLine(t), {texts:Array(String)}) AS texts", texts=part
            )
            self._canonical |= dict(zip(part, rows[0]["texts"], strict=True))

    async def _run_all(self, statements: Sequence[str]) -> None:
        await bounded(_STATEMENTS_AT_ONCE, *(self._client.run(statement) for statement in statements))

    async def _run_in_order(self, steps: Iterable[Step]) -> None:
        for step in steps:
            await self._client.run(step.sql)


def _holds_rows(table: Observed) -> bool:
    return table.engine.endswith("MergeTree") and any(name == "tenant_id" for name, _ in table.columns)
