"""The Lua that runs in Envoy: `trace.lua`, and `breaker.lua` behind its numbers."""

from importlib import resources

from kernel_gateway.envoy.clusters import DECISION
from kernel_gateway.envoy.routes import BREAKER, DECIDED
from kernel_gateway.envoy.settings import EnvoySettings

REPORT_PATH = "/internal/breaker"
"""Where the breakers report their transitions, on the decision server."""


def trace() -> str:
    return _text("trace.lua")


def breaker(settings: EnvoySettings) -> str:
    """Failures, window and open time (milliseconds) stand in front of the script."""
    numbers = {
        "FAILURES": settings.cb_failures,
        "WINDOW": round(settings.cb_window_sec * 1000),
        "OPEN": round(settings.cb_open_sec * 1000),
    }
    names = {"NAMESPACE": BREAKER, "REPORTS": DECISION, "PATH": REPORT_PATH, "DECIDED": DECIDED}
    head = [f"local {name} = {value}" for name, value in numbers.items()]
    head += [f'local {name} = "{value}"' for name, value in names.items()]
    return "\n".join([*head, _text("breaker.lua")])


def _text(name: str) -> str:
    return resources.files("kernel_gateway.envoy").joinpath(name).read_text()
