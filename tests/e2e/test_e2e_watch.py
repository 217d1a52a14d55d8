"""A watch that tells events twice, late, behind later ones, and that is torn off: the operator ends where it would have
without that, and leaves nothing over."""

import asyncio
from pathlib import Path

import aiohttp
from e2e_audit import clean
from e2e_operator import OwnOperator
from e2e_storm import storm_of
from e2e_watch_proxy import WatchProxy

from kernel_local.background import Background

APPLIES = 150


async def test_events_that_come_twice_late_and_in_disorder_change_nothing(cluster, provider, platform, tmp_path):
    own, kubeconfig = OwnOperator(platform, tmp_path / "operator.log"), tmp_path / "kubeconfig"
    proxy = WatchProxy(Path(platform.operator_env["KUBECONFIG"]), seed=11)
    elsewhere = Background()  # kubectl blocks this loop
    serving = proxy.serving(kubeconfig)
    elsewhere.run(serving.__aenter__())
    await provider.kill("operator")
    try:
        async with own.running(KUBECONFIG=str(kubeconfig)) as process:
            await own.ready(process)
            async with storm_of(cluster, platform, seed=11) as storm:
                await storm.applies(APPLIES)
                await clean(cluster, provider)
            await clean(cluster, provider)
            for what in ("told twice at once", "told again later", "told late", "torn off"):
                assert proxy.done[what] >= 5, f"the proxy was too tame: {proxy.done}"
            assert process.is_alive()
            url = f"http://127.0.0.1:{platform.operator.port}/livez"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                assert answer.status == 200
    finally:
        elsewhere.run(serving.__aexit__(None, None, None))
        elsewhere.close()
        await asyncio.shield(provider.start("operator"))
