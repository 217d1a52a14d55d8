"""Where things lie: the repository, the cache that survives everything, and the default data directory."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """What was built or installed and can be made again: shared by all platforms of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "platform-kernel"


def default_data() -> Path:
    """The data directory when neither ``--data`` nor ``KERNEL_DATA`` names another."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "platform-kernel"
