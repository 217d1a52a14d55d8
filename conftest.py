"""The fixtures that every part's tests share: the real servers."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["kernel_local.testing"]

# The operator of the fixture ``platform`` compares everything this often: a minute is long to wait for in a test.
os.environ.setdefault("OPERATOR_RESYNC_SECONDS", "5")
# Every browser and client of the tests has one address.
os.environ.setdefault("ANONYMOUS_REQUESTS_PER_MINUTE", "6000")

# How long an example takes says more about the machine than about the code.
settings.register_profile("platform-kernel", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("platform-kernel")
