"""``python -m kernel_gateway.envoy``: fills GATEWAY_ENVOY_DIRECTORY and prints the path of the bootstrap."""

import sys

from kernel_gateway.envoy.bootstrap import lay_out
from kernel_gateway.envoy.settings import load
from kernel_gateway.settings import SettingsError


def main() -> int:
    """Exit 0, or 1 with one line that says what to do."""
    try:
        sys.stdout.write(f"{lay_out(load())}\n")
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"kernel-gateway envoy: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
