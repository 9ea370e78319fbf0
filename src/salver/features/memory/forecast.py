"""Forecasts of which model is asked next. Pure.

Three sources, each with the chance that a model is asked within some seconds from now:

``gaps``     how long its pauses between requests are, given how long this one lasts already;
``day``      how often it was asked at this time of the day, in periods of half an hour;
``co-access``  how often it was asked soon after another model that was asked just now.

A model with a short history borrows the pauses of all models. History is kept by the model's name, so that a
new version inherits it; it is bounded by the number of models and a few hundred bytes of each.

Shahrad et al., "Serverless in the Wild", ATC 2020, forecasts pauses by histograms in the same way.
"""

import math
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, Literal, NamedTuple

Source = Literal["gaps", "day", "co-access"]
SOURCES: Final[tuple[Source, ...]] = ("gaps", "day", "co-access")

_MOST_MODELS: Final = 1 << 16
_BUCKETS: Final = 40  # two for each doubling, from a second to twelve days
_MOST_GAPS: Final = 256.0  # then all counts are halved, so that old habits fade
_BORROWED: Final = 4.0  # gaps that a model borrows from all
_DAY_S: Final = 86_400.0
_SLOTS: Final = 48
_SLOT_S: Final = _DAY_S / _SLOTS
_FADE: Final = 0.8  # weight of a day relative to the next one
_VISIT_S: Final = 60.0  # a request after such a pause begins a visit; who is asked within it follows
_MOST_FOLLOWERS: Final = 8
_MOST_VISITS: Final = 32
_MOST_RECENT: Final = 64
_FEW: Final = 1e-9


class Forecast(NamedTuple):
    """Chance that a model is asked, and what says so."""

    chance: float
    source: Source


class Gaps:
    """Histogram of pauses between requests, on a logarithmic scale.

    >>> gaps = Gaps()
    >>> for _ in range(9):
    ...     gaps.add(600.0)
    >>> over, ending = gaps.beyond(500.0, 300.0)
    >>> round(over, 1), round(ending, 1)
    (9.0, 9.0)
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = array("f", bytes(4 * _BUCKETS))
        self.total = 0.0

    def add(self, seconds: float, weight: float = 1.0) -> None:
        """Count a pause."""
        self.counts[int(_place(seconds))] += weight
        self.total += weight
        if self.total > _MOST_GAPS:
            self.total = 0.0
            for index, count in enumerate(self.counts):
                self.counts[index] = count / 2
                self.total += count / 2

    def beyond(self, age: float, horizon: float) -> tuple[float, float]:
        """Return how many pauses were longer than an age, and how many of these ended within the horizon."""
        over = self._over(age)
        return over, over - self._over(age + horizon)

    def _over(self, seconds: float) -> float:
        place = _place(seconds)
        index = int(place)
        return self.counts[index] * (1 - (place - index)) + sum(self.counts[index + 1 :])


def _place(seconds: float) -> float:
    """Return the position on the logarithmic scale."""
    if seconds <= 1.0:
        return 0.0
    return min(2 * math.log2(seconds), _BUCKETS - 1e-6)


class Days:
    """Days on which a model was asked, by the time of the day."""

    __slots__ = ("_hits", "_last", "first")

    def __init__(self, day: int) -> None:
        self.first = day
        self._hits = array("f", bytes(4 * _SLOTS))
        self._last = array("l", [-1] * _SLOTS)

    def add(self, day: int, slot: int) -> bool:
        """Note a request; return whether it is the first of that day and slot."""
        last = self._last[slot]
        if last == day:
            return False
        self._hits[slot] = self._at(day, slot) + 1.0
        self._last[slot] = day
        return True

    def chance(self, day: int, slot: int) -> float:
        """Return the share of the earlier days on which it was asked in that slot; later days weigh more."""
        days = day - self.first
        if days < 2:
            return 0.0
        hits = self._at(day, slot)
        if self._last[slot] == day:
            hits -= 1.0
        # One day more, without a request: two days in a row are no habit yet.
        return hits / (_FADE * (1 - _FADE ** (days + 1)) / (1 - _FADE))

    def _at(self, day: int, slot: int) -> float:
        last = self._last[slot]
        if last < 0:
            return 0.0
        return self._hits[slot] * float(_FADE ** (day - last))


class CoAccess:
    """Models that are asked soon after one model."""

    __slots__ = ("credited", "followers", "visits")

    def __init__(self) -> None:
        self.visits = 0.0
        self.followers: dict[str, float] = {}
        self.credited: set[str] = set()  # in the visit that is under way

    def visit(self) -> None:
        """Begin a visit."""
        self.visits += 1.0
        self.credited.clear()
        if self.visits > _MOST_GAPS:
            self.visits /= 2
            self.followers = {name: count / 2 for name, count in self.followers.items()}

    def credit(self, name: str) -> None:
        """Count a model that was asked within this visit."""
        if name in self.credited:
            return
        self.credited.add(name)
        followers = self.followers
        if name not in followers and len(followers) >= _MOST_FOLLOWERS:
            # As in Space-Saving (Metwally et al., 2005), but without inheriting the count.
            least = min(followers, key=followers.__getitem__)
            followers[least] -= 1.0
            if followers[least] > 0:
                return
            del followers[least]
        followers[name] = followers.get(name, 0.0) + 1.0

    def chance(self, name: str) -> float:
        """Return the share of visits in which a model was asked; one more visit without it is assumed."""
        return self.followers.get(name, 0.0) / (self.visits + 1.0)


class History:
    """Requests of one model."""

    __slots__ = ("co_access", "days", "gaps", "last")

    def __init__(self, now: float) -> None:
        self.last = now
        self.gaps = Gaps()
        self.days = Days(_time_of_day(now)[0])
        self.co_access = CoAccess()


class Forecaster:
    """Forecasts of all models."""

    def __init__(self) -> None:
        self._histories: OrderedDict[str, History] = OrderedDict()  # asked last = last
        self._visits: OrderedDict[str, float] = OrderedDict()  # begun last = last
        self._all = Gaps()
        self._habits: list[dict[str, None]] = [{} for _ in range(_SLOTS)]  # by slot, models asked in it

    def __len__(self) -> int:
        return len(self._histories)

    def note(self, name: str, now: float) -> None:
        """Note that a model was asked; call it at most once a second, whatever the number of requests."""
        history = self._histories.get(name)
        if history is None:
            history = self._histories[name] = History(now)
            self._visit(name, history, now)
            if len(self._histories) > _MOST_MODELS:
                self.forget(next(iter(self._histories)))
        else:
            gap = now - history.last
            history.gaps.add(gap)
            self._all.add(gap, 1.0 / (1.0 + history.gaps.total))  # or else the busiest would speak for all
            if gap > _VISIT_S:
                self._visit(name, history, now)
            history.last = now
            self._histories.move_to_end(name)
        for other in self._visited(now):
            if other != name:
                self._histories[other].co_access.credit(name)
        day, slot = _time_of_day(now)
        if history.days.add(day, slot):
            self._habits[slot].pop(name, None)
            self._habits[slot][name] = None

    def forget(self, name: str) -> None:
        """Drop the history of a model."""
        self._histories.pop(name, None)
        self._visits.pop(name, None)
        for slot in self._habits:
            slot.pop(name, None)

    def likely(self, now: float, horizon: float) -> set[str]:
        """Return models that may be asked soon; a limited number."""
        found = set(islice(reversed(self._histories), _MOST_RECENT))
        found.update(self.co_access(now))
        _, slot = _time_of_day(now + horizon)
        found.update(islice(reversed(self._habits[slot]), _MOST_RECENT))
        return found

    def co_access(self, now: float) -> dict[str, float]:
        """Return the chances of models that follow others which were visited just now."""
        found: dict[str, float] = {}
        for other in self._visited(now):
            co_access = self._histories[other].co_access
            for name in co_access.followers:
                if name not in co_access.credited:
                    found[name] = max(found.get(name, 0.0), co_access.chance(name))
        return found

    def forecast(self, name: str, now: float, horizon: float, co_access: Mapping[str, float]) -> Forecast:
        """Return the chance that a model is asked within some seconds.

        Args:
            co_access: From :meth:`co_access`, for the same time.
        """
        best = Forecast(co_access.get(name, 0.0), "co-access")
        history = self._histories.get(name)
        if history is None:
            return best
        day = Forecast(_by_day(history, now, horizon), "day")
        return max(Forecast(self._by_gaps(history, now, horizon), "gaps"), day, best, key=_chance)

    def _visit(self, name: str, history: History, now: float) -> None:
        history.co_access.visit()
        self._visits[name] = now
        self._visits.move_to_end(name)
        if len(self._visits) > _MOST_VISITS:
            self._visits.popitem(last=False)

    def _visited(self, now: float) -> Iterator[str]:
        """Return the models of which a visit began just now, the last one first."""
        for name, since in reversed(self._visits.items()):
            if now - since > _VISIT_S:
                return
            yield name

    def _by_gaps(self, history: History, now: float, horizon: float) -> float:
        age = now - history.last
        over, ending = history.gaps.beyond(age, horizon)
        over_all, ending_all = self._all.beyond(age, horizon)
        borrowed = _BORROWED / max(1.0, self._all.total)
        over += borrowed * over_all
        if over <= _FEW:
            return 0.0
        return min(1.0, (ending + borrowed * ending_all) / over)


def _by_day(history: History, now: float, horizon: float) -> float:
    """Return the chance by the time of the day: in what is left of this period, or in the next one."""
    day, slot = _time_of_day(now)
    chance, left = 0.0, _SLOT_S - now % _SLOT_S
    if history.last < now - now % _SLOT_S:  # asked in this period already: its pauses know better
        chance = history.days.chance(day, slot) * min(left, horizon) / _SLOT_S
    if left < horizon:
        chance = max(chance, history.days.chance(*_time_of_day(now + horizon)))
    return chance


def _chance(forecast: Forecast) -> float:
    return forecast.chance


def _time_of_day(now: float) -> tuple[int, int]:
    """Return the day and its slot, by a clock that need not know when midnight is."""
    day, rest = divmod(now, _DAY_S)
    return int(day), int(rest // _SLOT_S)
