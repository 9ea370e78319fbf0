"""Fields of a successful answer that tell what its caller has left, for requests that ask for them.

Asked for by ``prefer: ratelimit`` (RFC 7240), which other servers ignore; named as by
``draft-ietf-httpapi-ratelimit-headers-10``. Pure.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from salver.transport.faults import policy
from salver.words.errors import ReachedLimit
from salver.words.messages import LimitState

_NAME: Final = b"ratelimit"


def limit_fields(
    headers: Mapping[bytes, bytes], limits: Iterable[LimitState], now: float
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the fields for limits and quotas; nothing if the request does not ask for them.

    Args:
        headers: Headers of the request.
        now: Unix seconds.

    >>> limits = [LimitState("key-requests", 100, 10, 37), LimitState("key-tokens-day", 2e6, 86400, 1e3, 40)]
    >>> for _, value in limit_fields({b"prefer": b"wait=5, RateLimit"}, limits, 10.5):
    ...     print(value.decode())
    "key-requests";q=100;w=10, "key-tokens-day";q=2000000;qu="tokens";w=86400
    "key-requests";r=37;t=7, "key-tokens-day";r=1000;t=30
    """
    asked = (each.partition(b";")[0].strip().lower() for each in headers.get(b"prefer", b"").split(b","))
    found = list(limits) if _NAME in asked else []
    if not found:
        return ()
    policies = b", ".join(map(_policy, found))
    return (b"ratelimit-policy", policies), (_NAME, ", ".join(_states(found, now)).encode())


def _policy(limit: LimitState) -> bytes:
    unit = limit.name.split("-", 1)[1].removesuffix("-day").removesuffix("-month")
    return policy(ReachedLimit(limit.name, int(limit.most), limit.window_seconds, unit))


def _states(limits: Iterable[LimitState], now: float) -> Iterator[str]:
    """Return each limit with what is left, and the seconds until all of it is back."""
    for limit in limits:
        rest = limit.window_seconds * (1 - limit.left / limit.most) if limit.most else 0.0
        if limit.resets is not None:
            rest = limit.resets - now
        text = f'"{limit.name}";r={int(limit.left)}'
        yield f"{text};t={math.ceil(rest)}" if limit.window_seconds else text
