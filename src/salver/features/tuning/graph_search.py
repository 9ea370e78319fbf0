"""Search for the settings of a pipeline's steps that meet one objective of the whole.

Pure: :meth:`GraphSearch.ask` names what to measure next, :meth:`GraphSearch.tell` takes the result. Steps
share the cores, so that the whole is measured and no step by itself; one setting at a time is changed, and
kept if the whole gains by it, until no change does (coordinate descent). Settings that the file names stay.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from salver.features.pipelines.running import Running
from salver.features.tuning.choose import limit_of
from salver.words.artifacts import Objective

Settings = Mapping[str, Running]
#: Part by which a change must gain to be kept: less is noise.
GAIN: Final = 0.03


class Knob(NamedTuple):
    """A setting of a step, and what it may be besides what it is; values of :class:`Running`."""

    step: str
    changes: Sequence[Mapping[str, object]]


class GraphMeasurement(msgspec.Struct, frozen=True):
    """A pipeline as it ran with some settings.

    Attributes:
        rate: Requests per second, of callers who wait for their answers.
        p99_s: 99th percentile of their latencies.
    """

    settings: dict[str, Running]
    rate: float
    p99_s: float


class GraphSearch:
    """Search for one pipeline.

    Args:
        settings: Those of the file.

    >>> search = GraphSearch({"a": Running()}, [Knob("a", [{"instances": 1}, {"instances": 2}])], Objective())
    >>> while (settings := search.ask()) is not None:
    ...     found = GraphMeasurement(dict(settings), 10.0 + settings["a"].instances, 0.1)
    ...     search.tell(found, search.best or found)
    >>> search.best.settings["a"].instances, len(search.measured)
    (2, 3)
    """

    def __init__(self, settings: Settings, knobs: Sequence[Knob], objective: Objective) -> None:
        self.measured: list[GraphMeasurement] = []
        self.refused: list[dict[str, Running]] = []
        self._start = dict(settings)
        self._knobs = knobs
        self._limit_s = limit_of(objective)
        #: The best settings so far, as they were measured last; None = nothing is measured.
        self.best: GraphMeasurement | None = None
        self._at = 0
        self._left: list[dict[str, Running]] = []
        #: Knobs that were tried since the last gain.
        self._tried = 0

    def __repr__(self) -> str:
        return f"<GraphSearch of {len(self._start)} steps, {len(self.measured)} measured>"

    def ask(self) -> dict[str, Running] | None:
        """Return the settings to measure next; None = nothing gains any more."""
        if self.best is None:
            return None if self.refused else self._start
        while not self._left:
            if self._tried >= len(self._knobs):
                return None
            self._left = self._others(self._knobs[self._at % len(self._knobs)], self.best.settings)
            self._at += 1
            self._tried += 1
        return self._left[0]

    def tell(self, found: GraphMeasurement, beside: GraphMeasurement) -> None:
        """Take the measurement of what was asked for.

        Args:
            beside: The best settings, measured in turns with it, so that a busy moment slows both.
        """
        self.measured.append(found)
        self._left = self._left[1:]
        is_first = self.best is None
        if is_first or self.is_better(found, beside):
            self.best = found
            self._tried = min(self._tried, 1)  # others may gain now; this knob is done

    def refuse(self, settings: Settings) -> None:
        """Note that a pipeline with these settings cannot be loaded or does not answer."""
        self.refused.append(dict(settings))
        self._left = self._left[1:]

    def meets(self, found: GraphMeasurement) -> bool:
        """Return whether the objective's limit is met."""
        return not self._limit_s or found.p99_s <= self._limit_s

    def is_better(self, one: GraphMeasurement, other: GraphMeasurement) -> bool:
        """Return whether one is certainly better: it meets the limit, or is nearer to it, or is faster."""
        if self.meets(one) != self.meets(other):
            return self.meets(one)
        if not self.meets(one):
            return one.p99_s < other.p99_s * (1 - GAIN)
        return one.rate > other.rate * (1 + GAIN)

    def _others(self, knob: Knob, own: Settings) -> list[dict[str, Running]]:
        """Return settings with another value of a knob, without those that are known."""
        known = [*(found.settings for found in self.measured), *self.refused]
        each = (
            {**own, knob.step: msgspec.structs.replace(own[knob.step], **change)} for change in knob.changes
        )
        return [settings for settings in each if settings not in known]
