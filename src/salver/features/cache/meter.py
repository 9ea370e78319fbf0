"""Counts and samples of the cache of one model."""

import msgspec
from msgspec.structs import astuple

from salver.features.cache.reuse import ReuseSampler
from salver.features.cache.sizing import Demand, Switch
from salver.words.messages import InferRequest, ModelId, Timing

#: Share of the contents that are sampled while the cache is off.
PROBED = 1 / 16
_BATCH = 256  # accesses that are sampled together: a third of a millisecond
_HASH = 0xFFFFFFFF
_WEIGHT = 0.05  # of the newest of about twenty values in a mean


class Counts(msgspec.Struct):
    """Requests of a model with a cache.

    Attributes:
        hits: Answered from the cache.
        joined: Answered with an equal request that was being computed.
        misses: Computed.
        looking, inserting: Seconds.
    """

    hits: int = 0
    joined: int = 0
    misses: int = 0
    looking: float = 0.0
    inserting: float = 0.0

    @property
    def lookups(self) -> int:
        """Return the number of requests that the cache saw."""
        return self.hits + self.joined + self.misses

    def plus(self, other: "Counts") -> "Counts":
        """Return the sum with others."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Counts(*(mine + theirs for mine, theirs in pairs))

    def less(self, before: "Counts") -> "Counts":
        """Return the difference to an earlier state."""
        pairs = zip(astuple(self), astuple(before), strict=True)
        return Counts(*(now - then for now, then in pairs))


class ModelMeter:
    """Counts, sampler and state of a version's cache.

    Attributes:
        owner: Prefix of the keys of its current copy.
        is_on: Whether the cache is used.
        size: Bytes that it may use; None = it shares the whole cache.
        run_s: Seconds of the model for one request, a mean of the latest; 0 = none is known.
        entry_bytes: Size of an entry, a mean of the latest.
    """

    def __init__(self, id: ModelId, owner: bytes) -> None:
        self.id = id
        self.owner = owner
        self.counts = Counts()
        self.sampler = ReuseSampler()
        self.switch = Switch()
        self.is_on = True
        self.size: int | None = None
        self.run_s = 0.0
        self.entry_bytes = 0.0
        self._seen: list[bytes] = []
        self._sizes: dict[int, int] = {}  # of those that are known, by their place among the seen ones

    def __repr__(self) -> str:
        return f"<ModelMeter of {self.id}, {'on' if self.is_on else 'off'}, {self.counts.lookups} requests>"

    def hit(self, key: bytes, looking: float) -> None:
        """Count an answer from the cache."""
        self.counts.hits += 1
        self.counts.looking += looking
        self._seen.append(key)
        if len(self._seen) >= _BATCH:
            self.sample()

    def joined(self, key: bytes, looking: float) -> None:
        """Count an answer that another request's computation gave."""
        self.counts.joined += 1
        self.counts.looking += looking
        self._seen.append(key)

    def missed(self, key: bytes, size: int, run_s: float, looking: float, inserting: float) -> None:
        """Count a computed answer.

        Args:
            size: Bytes of its entry.
            run_s: Seconds of the model.
        """
        counts = self.counts
        counts.misses += 1
        counts.looking += looking
        counts.inserting += inserting
        self.entry_bytes += (size - self.entry_bytes) * (_WEIGHT if self.entry_bytes else 1.0)
        self.run_s += (run_s - self.run_s) * (_WEIGHT if self.run_s else 1.0)
        self.probe(key, size)

    def probe(self, key: bytes, size: int = 0) -> None:
        """Show an access to the sampler; size 0 = that of the mean entry."""
        if size:
            self._sizes[len(self._seen)] = size
        self._seen.append(key)
        if len(self._seen) >= _BATCH:
            self.sample()

    def sample(self) -> None:
        """Pass what was seen to the sampler."""
        sizes = [self.entry_bytes] * len(self._seen)
        for place, size in self._sizes.items():
            sizes[place] = size
        # The hash of the digest is known since the look-up.
        self.sampler.record_all(zip([hash(key) & _HASH for key in self._seen], sizes, strict=True))
        self._seen.clear()
        self._sizes.clear()

    def turn(self, *, is_on: bool) -> None:
        """Use the cache from now on, or do not; the sampler starts anew."""
        self.is_on = is_on
        self._seen.clear()
        self._sizes.clear()
        self.sampler = ReuseSampler(rate=1.0 if is_on else PROBED)

    def demand(self, rate: float) -> Demand:
        """Return what the model's cache could save at a rate of requests."""
        counts = self.counts
        lookup_s = 0.0
        if counts.lookups:
            lookup_s = (counts.looking + counts.inserting) / counts.lookups
        return Demand(rate, self.run_s, lookup_s, self.sampler.curve())


def seconds_of(request: InferRequest, timing: Timing) -> float:
    """Return the seconds of a model for one request: of a batch its share by rows."""
    rows = 1
    if request.inputs and request.inputs[0].array.ndim:
        rows = request.inputs[0].array.shape[0]
    if timing.batch_rows > rows:
        return timing.inference * rows / timing.batch_rows
    return timing.inference
