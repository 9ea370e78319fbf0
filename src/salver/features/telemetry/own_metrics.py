"""Metrics that models define themselves (TR-M8).

Series with the names and labels chosen by their authors. A series is shared by all instances of a model, and
by all models that open it in the same form; it is stored here, so that it survives the death of an instance,
and is removed with the last model that uses it.
"""

import itertools
import re
import threading
from collections.abc import Iterator
from typing import Final, Literal

from salver.backends.callbacks import Series
from salver.encoding.exposition import COUNTER
from salver.lazy import lazy_imports
from salver.stats.histogram import Histogram
from salver.words.errors import Conflict, InvalidInput, Overloaded

with lazy_imports():
    from prometheus_client import Metric


#: Maximum series of one model, and maximum families in total.
MOST_SERIES: Final = 1000
MOST_FAMILIES: Final = 1000
_OURS: Final = re.compile(r"(salver|process|nv_(inference|cpu|gpu|cache|model|pinned|energy))_.*")
_Labels = tuple[tuple[str, str], ...]


class _Series:
    """A number or a histogram, and its owners."""

    def __init__(self, series: Series) -> None:
        self.value = 0.0
        self.histogram = Histogram(series.buckets)
        self.owners: set[object] = set()


class _Family:
    """Series of one name."""

    def __init__(self, first: Series) -> None:
        self.first = first
        self.series: dict[_Labels, _Series] = {}

    def metric(self) -> Metric:
        """Return the family for the page."""
        kind = self.first.kind
        metric = Metric(self.first.family, self.first.about, COUNTER if kind == "counter" else kind)
        for labels, series in self.series.items():
            if kind != "histogram":
                metric.add_sample(metric.name, dict(labels), series.value)
                continue
            bounds = [*map(repr, self.first.buckets), "+Inf"]
            for bound, count in zip(bounds, series.histogram.cumulative(), strict=True):
                metric.add_sample(f"{metric.name}_bucket", {**dict(labels), "le": bound}, count)
            metric.add_sample(f"{metric.name}_count", dict(labels), series.histogram.count)
            metric.add_sample(f"{metric.name}_sum", dict(labels), series.histogram.sum)
        return metric


class OwnMetrics:
    """The models' own series."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}
        self._handles: dict[object, dict[int, tuple[_Series, str]]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # a scrape may run on another thread

    def __repr__(self) -> str:
        return f"<OwnMetrics, {len(self._families)} families of {len(self._handles)} models>"

    def open(self, owner: object, series: Series) -> int:
        """Return a handle of a series, which may already exist.

        Args:
            owner: Owner of the series until :meth:`forget`.

        Raises:
            InvalidInput: the name is one of the server's own.
            Conflict: the family exists in another form.
            Overloaded: there are too many.
        """
        with self._lock:
            family = self._family(series)
            labels = tuple(sorted(series.labels.items()))
            handles = self._handles.setdefault(owner, {})
            found = family.series.get(labels)
            if found is None or owner not in found.owners:
                if len({id(known) for known, _ in handles.values()}) >= MOST_SERIES:
                    raise Overloaded(
                        f"a model may have {MOST_SERIES} metrics, and '{series.family}' would be one more",
                        fix="Give it labels with fewer values.",
                    )
                found = family.series.setdefault(labels, _Series(series))
                found.owners.add(owner)
            self._families.setdefault(series.family, family)
            for handle, (known, _) in handles.items():
                if known is found:
                    return handle
            handle = next(self._numbers)
            handles[handle] = (found, family.first.kind)
            return handle

    def change(self, owner: object, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        """Change a number. Raises InvalidInput for a foreign handle or an unsupported operation."""
        series, kind = self._of(owner, handle)
        with self._lock:
            if how == "add" and (kind == "gauge" or (kind == "counter" and value >= 0)):
                series.value += value
            elif how == "set" and kind == "gauge":
                series.value = value
            elif how == "observe" and kind == "histogram":
                series.histogram.add_all([value])
            else:
                raise InvalidInput(f"a {kind} does not {how} {value:g}")

    def value(self, owner: object, handle: int) -> float:
        """Return a value. Raises InvalidInput for a handle of another owner."""
        return self._of(owner, handle)[0].value

    def forget(self, owner: object) -> None:
        """Remove an owner with its series, except those with other owners."""
        with self._lock:
            gone = {id(series) for series, _ in self._handles.pop(owner, {}).values()}
            for name, family in list(self._families.items()) if gone else ():
                for labels, series in list(family.series.items()):
                    if id(series) in gone:
                        series.owners.discard(owner)
                        if not series.owners:
                            del family.series[labels]
                if not family.series:
                    del self._families[name]

    def collect(self) -> Iterator[Metric]:
        """Return all families with their current values."""
        with self._lock:
            yield from [family.metric() for family in self._families.values()]

    def _of(self, owner: object, handle: int) -> tuple[_Series, str]:
        found = self._handles.get(owner, {}).get(handle)
        if found is None:
            raise InvalidInput(f"there is no metric {handle}")
        return found

    def _family(self, series: Series) -> _Family:
        """Return the family of a series, creating it if allowed."""
        family = self._families.get(series.family)
        if family is not None:
            known = family.first
            if (known.kind, known.buckets) != (series.kind, series.buckets):
                raise Conflict(
                    f"metric '{series.family}' is there already, as a {known.kind}"
                    + (f" with the buckets {list(known.buckets)}" if known.buckets else ""),
                    fix="Give it another name.",
                )
            return family
        if _OURS.fullmatch(series.family):
            raise InvalidInput(
                f"'{series.family}' is a name of the server's own metrics", fix="Give it another prefix."
            )
        made = _Family(series)
        for name, other in self._families.items():
            if not _names(series).isdisjoint(_names(other.first)):
                raise Conflict(f"metric '{series.family}' would be mistaken for '{name}'")
        if len(self._families) >= MOST_FAMILIES:
            raise Overloaded(f"there are {MOST_FAMILIES} names of models' own metrics already")
        return made


def _names(series: Series) -> set[str]:
    """Return the names of a family's samples."""
    ends = ("_bucket", "_count", "_sum") if series.kind == "histogram" else ()
    return {series.family, *(series.family + end for end in ends)}
