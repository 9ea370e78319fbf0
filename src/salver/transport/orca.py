"""Load reports of models in a header for load balancers (TR-R33).

The header ``endpoint-load-metrics`` of Open Request Cost Aggregation, for callers that send
``endpoint-load-metrics-format``. Pure.
"""

from typing import Final

import msgspec
import orjson

ASKED: Final = b"endpoint-load-metrics-format"
_TOLD: Final = b"endpoint-load-metrics"


class TokenRoom(msgspec.Struct, frozen=True):
    """Use of a step-wise model's cache.

    Attributes:
        sequences: Active sequences.
        most: Most sequences at a time.
        context: Most tokens of a sequence.
    """

    sequences: int
    most: int
    context: int


def load_report(form: bytes, room: TokenRoom) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header in the form ``text`` or ``json``; nothing for other forms.

    >>> load_report(b"text", TokenRoom(2, 8, 1000))[0][1].decode()
    'TEXT named_metrics.kv_cache_utilization=0.250000, named_metrics.max_token_capacity=8000'
    >>> load_report(b"json", TokenRoom(2, 8, 1000))[0][1].decode()
    'JSON {"named_metrics":{"kv_cache_utilization":0.25,"max_token_capacity":8000}}'
    """
    used, capacity = min(1.0, room.sequences / room.most), room.most * room.context
    if form == b"json":
        metrics = {"kv_cache_utilization": used, "max_token_capacity": capacity}
        return ((_TOLD, b"JSON " + orjson.dumps({"named_metrics": metrics})),)
    if form == b"text":
        text = f"named_metrics.kv_cache_utilization={used:f}, named_metrics.max_token_capacity={capacity}"
        return ((_TOLD, b"TEXT " + text.encode()),)
    return ()
