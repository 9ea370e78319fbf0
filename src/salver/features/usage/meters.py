"""Counts of what keys use, by model, between two writes to the ledger. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from salver.words.messages import Timing

#: What is counted, in the order in which it is kept.
COUNTS: Final = (
    "requests",
    "rows",
    "prompt_tokens",
    "answer_tokens",
    "bytes_in",
    "bytes_out",
    "compute_us",
    "refusals",
)
#: Most models that a key has counts of between two writes; the names of further ones are left out.
_MOST_MODELS: Final = 1000


class Place(msgspec.Struct, frozen=True, order=True):
    """Key, model and hour of counts.

    Attributes:
        model: Empty = no model that is served.
        hour: Unix seconds of its beginning.
    """

    key: str
    model: str
    hour: int


Batch = Mapping[Place, Sequence[int]]


class _Counts:
    """Counts of a key and a model."""

    __slots__ = (*COUNTS, "seconds")

    def __init__(self) -> None:
        self.requests = self.rows = self.prompt_tokens = self.answer_tokens = 0
        self.bytes_in = self.bytes_out = self.compute_us = self.refusals = 0
        self.seconds = 0.0

    def row(self) -> list[int]:
        """Return the counts in the order of :data:`COUNTS`."""
        self.compute_us = round(self.seconds * 1e6)
        return [getattr(self, name) for name in COUNTS]


class KeyMeter:
    """Counts of one key.

    Args:
        changed: Receives this meter when it has its first count since it was taken.
    """

    __slots__ = ("__weakref__", "_changed", "_counts", "key")

    def __init__(self, key: str, changed: list["KeyMeter"]) -> None:
        self.key = key
        self._changed = changed
        self._counts: dict[str, _Counts] = {}

    def __repr__(self) -> str:
        return f"<KeyMeter {self.key}, {len(self._counts)} models>"

    def record(self, model: str, rows: int, received: int, sent: int, timing: Timing) -> None:
        """See :class:`~salver.features.access.ports.Meter`."""
        counts = self._counts.get(model) or self._begun(model)
        counts.requests += 1
        counts.rows += rows
        counts.bytes_in += received
        counts.bytes_out += sent
        seconds, together = timing.inference, timing.batch_rows
        if together > rows:  # as compute_seconds(), written out for each request (benchmarks/prices.py)
            seconds *= rows / together
        counts.seconds += seconds

    def add_tokens(self, model: str, prompt: int, answer: int) -> None:
        """See :class:`~salver.features.access.ports.Meter`."""
        counts = self._counts.get(model) or self._begun(model)
        counts.prompt_tokens += prompt
        counts.answer_tokens += answer

    def refuse(self, model: str, count: int = 1) -> None:
        """See :class:`~salver.features.access.ports.Meter`."""
        (self._counts.get(model) or self._begun(model)).refusals += count

    def _begun(self, model: str) -> _Counts:
        """Return new counts of a model."""
        if not self._counts:
            self._changed.append(self)
        if len(self._counts) >= _MOST_MODELS:
            model = ""
        return self._counts.setdefault(model, _Counts())

    def take(self) -> Mapping[str, Sequence[int]]:
        """Return the counts by model, and begin anew."""
        taken, self._counts = self._counts, {}
        return {model: counts.row() for model, counts in taken.items()}


class UsageMeters:
    """Counts of all keys of one server."""

    def __init__(self) -> None:
        #: Those of keys that are in use, of which there may be very many over time.
        self._meters: WeakValueDictionary[str, KeyMeter] = WeakValueDictionary()
        self._changed: list[KeyMeter] = []
        self._taken: dict[Place, list[int]] = {}

    def __repr__(self) -> str:
        return f"<UsageMeters of {len(self._meters)} keys>"

    def meter(self, key: str) -> KeyMeter:
        """Return the meter of a key."""
        found = self._meters.get(key)
        if found is None:
            found = KeyMeter(key, self._changed)
            self._meters[key] = found
        return found

    def close_until(self, hour: int) -> None:
        """Assign what has been counted since the last call to an hour."""
        changed = self._changed.copy()
        self._changed.clear()
        for meter in changed:
            for model, counts in meter.take().items():
                place = Place(meter.key, model, hour)
                self._taken[place] = added(self._taken.get(place), counts)

    def take(self) -> Batch:
        """Return what has been assigned to hours since the last call."""
        taken, self._taken = self._taken, {}
        return taken


def added(one: Sequence[int] | None, other: Sequence[int]) -> list[int]:
    """Return the sums of two rows of counts; None = nothing."""
    if one is None:
        return list(other)
    return [a + b for a, b in zip(one, other, strict=True)]
