"""The fixtures that every part's tests share: the real servers."""

import os

pytest_plugins = ["kernel_local.testing"]

# The operator of the fixture ``platform`` compares everything this often: a minute is long to wait for in a test.
os.environ.setdefault("OPERATOR_RESYNC_SECONDS", "5")
# Every browser and client of the tests has one address.
os.environ.setdefault("ANONYMOUS_REQUESTS_PER_MINUTE", "6000")
