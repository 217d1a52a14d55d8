"""Free TCP ports on 127.0.0.1, below the range from which the system takes ports for outgoing connections."""

import random
import socket

_LOW, _HIGH = 20000, 32000


def is_free(port: int) -> bool:
    """Whether a server could listen there now. Connections that are just ending don't count, as for the servers."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
        return True


def choose(taken: set[int]) -> int:
    """A port that is free now and not in ``taken``."""
    for _ in range(2000):
        port = random.randrange(_LOW, _HIGH)  # noqa: S311 - not a secret
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free TCP port between {_LOW} and {_HIGH} on 127.0.0.1")
