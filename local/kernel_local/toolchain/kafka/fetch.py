"""Fetches the artifacts whose repository paths come on stdin, one a line, into the folder named as argument.

Runs by itself under ``uv run --with jgo``, on machines without Maven: jgo is a Maven client in pure Python.
"""

import sys
from pathlib import Path

from jgo.maven import MavenContext  # type: ignore[import-not-found]  # present only where this runs

context = MavenContext(repo_cache=Path(sys.argv[1]), timeout=60)
for line in sys.stdin:
    *group, artifact, version, _ = line.strip().split("/")
    context.project(".".join(group), artifact).at_version(version).artifact().resolve()
