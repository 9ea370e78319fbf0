"""Sizes of the models' parts of a local cache, and whether each is used.

A tick measures what each part saved since the last one, and asks ``sizing`` for the sizes that save most. It
acts only with ``size=auto``; with a fixed size it tells what it would do.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from salver.features.cache.caching import Caching
from salver.features.cache.local import PRICE, LocalCache
from salver.features.cache.meter import Counts, ModelMeter
from salver.features.cache.ports import ResponseCache
from salver.features.cache.reuse import Point
from salver.features.cache.sizing import Demand, allocate
from salver.words.sizes import told_bytes

#: Seconds between decisions.
TICK_S: Final = 10.0
#: Accesses that a curve needs before it decides anything, and lookups that a decision needs.
ENOUGH: Final = 1000
_FEW: Final = 50
_FADE: Final = 0.97  # a tick; half the weight after four minutes
_GIB: Final = 1 << 30


class CurvePoint(msgspec.Struct, frozen=True):
    """Hit ratio of a size."""

    bytes: int
    hit_ratio: float


class CacheReport(msgspec.Struct, frozen=True):
    """Use of the cache by a version, and the best size.

    Attributes:
        state: ``on``, ``off`` (it saves less than it costs) or ``learning`` (too few requests yet).
        chosen: Whether ``size`` was chosen by the server, or is fixed for all models together.
        hits: Answered from the cache.
        joined: Answered together with an equal request.
        misses: Run by the model.
        rate: Requests per second since the last decision.
        saved_s: Seconds of the model that a hit saves.
        lookup_s: Seconds that the cache costs each request.
        entry_bytes: Mean size of an entry.
        size: Bytes that its entries may use.
        used: Bytes that they use; None = unknown.
        saves: Cores that the cache saves now, less its lookups.
        costs: Cores that its memory is worth.
        best_size: Bytes with the largest gain.
        best_hit_ratio: Hit ratio of that size.
        best_gain: Cores that it saves, less lookups and memory.
        curve: Hit ratio by size.
        why: The decision in words.
    """

    model: str
    version: str
    state: str
    chosen: bool
    hits: int
    joined: int
    misses: int
    rate: float
    saved_s: float
    lookup_s: float
    entry_bytes: int
    size: int
    used: int | None
    saves: float
    costs: float
    best_size: int
    best_hit_ratio: float
    best_gain: float
    curve: tuple[CurvePoint, ...]
    why: str


class _Window(msgspec.Struct):
    """Changes of a meter between two decisions."""

    counts: Counts
    accesses: float = 0.0
    rate: float = 0.0
    saves: float = 0.0


class CacheControl:
    """Controller of all models' caches."""

    def __init__(self, caching: Caching, cache: ResponseCache) -> None:
        self._caching = caching
        self._local = cache if isinstance(cache, LocalCache) else None
        price = self._local.settings.price if self._local is not None else None
        self.is_automatic = price is not None
        self._price = PRICE / _GIB if price is None else price
        self._windows: dict[ModelMeter, _Window] = {}
        self._decided_at = caching.now()
        if self.is_automatic:
            caching.arrived = self._arrive

    def __repr__(self) -> str:
        return f"<CacheControl of {len(self._caching.meters)} models>"

    async def tick(self) -> None:
        """Measure, and decide."""
        now = self._caching.now()
        seconds = now - self._decided_at
        if seconds <= 0:
            return
        self._decided_at = now
        meters = list(self._caching.meters.values())
        self._windows = {meter: self._measured(meter, seconds) for meter in meters}
        if self.is_automatic:
            self._switch()
            self._resize(self._demands())
        for meter in meters:
            meter.sampler.fade(_FADE)

    def reports(self, model: str = "") -> list[CacheReport]:
        """Return the report of each version, or of those of one model."""
        meters = [m for m in self._caching.meters.values() if model in ("", m.id.name)]
        for meter in meters:
            meter.sample()
        demands = self._demands()
        best = allocate({str(id(m)): demands[m] for m in meters}, float("inf"), self._price)
        return [self._report(meter, demands[meter], best[str(id(meter))]) for meter in meters]

    def _measured(self, meter: ModelMeter, seconds: float) -> _Window:
        """Return the window that ends now."""
        meter.sample()
        before = self._windows.get(meter) or _Window(Counts())
        counts, accesses = replace(meter.counts), meter.sampler.accesses
        since = counts.less(before.counts)
        rate = since.lookups / seconds
        if not meter.is_on:  # only a share of the requests was seen
            seen = accesses - before.accesses * _FADE
            rate = max(0.0, seen) / (meter.sampler.rate or 1.0) / seconds
        answered = since.hits + since.joined
        saves = (answered * meter.run_s - since.looking - since.inserting) / seconds
        return _Window(counts, accesses, rate, saves)

    def _demands(self) -> dict[ModelMeter, Demand]:
        demands = {}
        for meter in self._caching.meters.values():
            window = self._windows.get(meter)
            demands[meter] = meter.demand(window.rate if window else self._rate(meter))
        return demands

    def _rate(self, meter: ModelMeter) -> float:
        """Return the rate of a meter before the first decision."""
        seconds = self._caching.now() - self._decided_at
        return meter.counts.lookups / seconds if seconds > 0 else 0.0

    def _switch(self) -> None:
        """Turn caches off that cost more than they save, and on that would save twice their costs."""
        for meter, demand in self._demands().items():
            window = self._windows[meter]
            if window.rate * TICK_S < _FEW or not self._is_known(meter):
                continue
            if meter.is_on:
                lookups = demand.rate * demand.lookup_s
                saves, costs = window.saves + lookups, lookups + self._price * self._used(meter)
            else:
                size = allocate({"": demand}, self._budget, self._price)[""]
                saves = demand.rate * demand.saved_s * demand.hit_ratio(size)
                costs = demand.rate * demand.lookup_s + self._price * size
            is_on = meter.switch.decide(saves, costs)
            if is_on != meter.is_on:
                meter.turn(is_on=is_on)
                self._windows[meter].accesses = 0.0

    def _resize(self, demands: Mapping[ModelMeter, Demand]) -> None:
        """Give each part its size; one that is not known yet gets its share of the whole."""
        meters = list(demands)
        if not meters or self._local is None:
            return
        fair = self._budget / len(meters)
        chosen = allocate({str(id(m)): demands[m] for m in meters}, self._budget, self._price)
        sizes = {}
        for meter in meters:
            if not meter.is_on:
                sizes[meter] = 0.0
            elif self._is_known(meter):
                sizes[meter] = chosen[str(id(meter))]
            else:
                sizes[meter] = fair
        scale = min(1.0, self._budget / (sum(sizes.values()) or 1.0))
        # Smaller ones first, so that all together never have more than the budget.
        for meter in sorted(meters, key=lambda each: sizes[each] - (each.size or 0)):
            meter.size = int(sizes[meter] * scale)
            self._local.allot(meter.owner, meter.size)

    def _arrive(self, meter: ModelMeter, before: bytes) -> None:
        """Give a version that was loaded its part, or that of the copy that it replaces."""
        if before and self._local is not None:
            self._local.allot(before, 0)
        self._resize(self._demands())

    @property
    def _budget(self) -> int:
        return self._local.size if self._local is not None else 0

    def _is_known(self, meter: ModelMeter) -> bool:
        return meter.sampler.accesses / meter.sampler.rate * min(1.0, meter.sampler.rate * 16) >= ENOUGH

    def _used(self, meter: ModelMeter) -> int:
        return self._local.used(meter.owner) if self._local is not None else 0

    def _report(self, meter: ModelMeter, demand: Demand, best: float) -> CacheReport:
        counts, window = meter.counts, self._windows.get(meter)
        size = self._budget if meter.size is None else meter.size
        used = None
        if meter.size is not None:
            used = self._used(meter)
        gain = demand.gain(best, self._price)
        state = "on"
        if not meter.is_on:
            state = "off"
        elif not self._is_known(meter):
            state = "learning"
        return CacheReport(
            model=meter.id.name,
            version=meter.id.version,
            state=state,
            chosen=self.is_automatic,
            hits=counts.hits,
            joined=counts.joined,
            misses=counts.misses,
            rate=demand.rate,
            saved_s=demand.saved_s,
            lookup_s=demand.lookup_s,
            entry_bytes=round(meter.entry_bytes),
            size=size,
            used=used,
            saves=window.saves if window is not None else 0.0,
            costs=self._price * (used or 0),
            best_size=round(best),
            best_hit_ratio=demand.hit_ratio(best),
            best_gain=gain,
            curve=tuple(CurvePoint(round(p.bytes), p.hit_ratio) for p in _thin(demand)),
            why=_words(state, gain, best, counts.lookups),
        )


def _thin(demand: Demand, most: int = 32) -> list[Point]:
    """Return at most so many points of a curve, the last one among them."""
    points = list(demand.curve)
    step = -(-len(points) // most) or 1
    return points[::-1][::step][::-1]


def _words(state: str, gain: float, best: float, lookups: int) -> str:
    if state == "learning":
        return f"{lookups} of {ENOUGH} requests that a decision needs were seen"
    if state == "off":
        return "hits saved less than looking them up cost; a sixteenth of the requests is still sampled"
    if gain <= 0 or not best:
        return "no size saves more than it costs"
    return f"{told_bytes(best)} save most: {gain:.3f} cores more than they cost"
