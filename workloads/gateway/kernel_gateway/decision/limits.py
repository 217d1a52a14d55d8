"""The headers that tell a client the state of its rate limit: the customary ones, and those of the IETF's draft
(draft-ietf-httpapi-ratelimit-headers). A limit is a number of requests a minute."""

from functools import lru_cache

WINDOW = 60


def headers(limit: int, left: int, full_in: int, wait: int, now: int) -> dict[str, str]:
    """``left`` requests may come at once; in ``full_in`` seconds all of them are back. ``wait``: seconds until the next
    one passes, 0 when one would now. ``now``: µs since 1970, by the clock that limits."""
    told = {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": str(left),
        "x-ratelimit-reset": str(now // 1_000_000 + full_in),
        "ratelimit-policy": _policy(limit),
        "ratelimit": f'"default";r={left};t={wait or full_in}',
    }
    if wait:
        told["retry-after"] = str(wait)
    return told


@lru_cache(4096)
def _policy(limit: int) -> str:
    return f'"default";q={limit};w={WINDOW}'
