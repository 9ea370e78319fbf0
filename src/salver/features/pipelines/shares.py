"""Shares of a request's time: by when each step of a graph must have ended.

A step has what is left of the time until the request's deadline, less what the steps after it need by their
measured laws, along the longest path; and no more than its own ``time-share``. A step that could not end in
time by its own law is not begun. Steps behind conditions and lists may have no rows, and so need nothing.

Pure: times are arguments.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from salver.features.pipelines.graph import Graph, Step
from salver.words.errors import DeadlineExceeded

#: Part of the way that a law goes up to a longer run; down it goes at once, so that it is a lower estimate.
_RISE: Final = 1 / 16
#: What is left of a law after a refusal: one that was measured in a bad moment is tried again soon.
_FADE: Final = 0.9
#: Relative change of a law after which the sums over the graph are made anew.
_NOTABLE: Final = 0.1


def after(steps: Sequence[Step], readers: Mapping[str, Sequence[Step]], laws: Sequence[float]) -> list[float]:
    """Return the least time that the steps after each step need, by their indices.

    Args:
        steps: In the order of their dependencies, which is that of their indices.
        laws: Seconds of each step.
    """
    found = [0.0] * len(steps)
    for step in reversed(steps):
        for tensor in step.writes:
            for reader in readers.get(tensor, ()):
                need = found[reader.index] + (laws[reader.index] if reader.is_sure else 0.0)
                found[step.index] = max(found[step.index], need)
        other = step.spare
        if other is not None:  # it ends when the step that failed should have, and stands above it
            found[other.index] = found[step.index]
    return found


class Shares:
    """Laws of the steps of a graph, and the ends that follow from them.

    Attributes:
        laws: Seconds that each step is known to take at least.
    """

    def __init__(self, graph: Graph) -> None:
        self._steps = graph.steps
        self._readers = graph.readers
        self.laws = [0.0] * len(graph.steps)
        self._used = [*self.laws]
        self._after = [*self.laws]

    def __repr__(self) -> str:
        return f"<Shares of {len(self._steps)} steps, {sum(self.laws) * 1e3:.3g} ms>"

    def end(self, step: Step, now: float, arrival: float, deadline: float) -> float:
        """Return by when a step that begins now must have ended.

        Raises:
            DeadlineExceeded: it cannot, by its law.
        """
        end = deadline - self._after[step.index]
        other = step.spare
        if other is not None:  # may have to run after it
            end -= self.laws[other.index]
        if step.time_share:
            end = min(end, now + step.time_share * (deadline - arrival))
        law = self.laws[step.index]
        if now + law > end or now >= end:
            self._learn(step.index, law * _FADE)
            left = max(0.0, end - now)
            took, has = f"{law * 1e3:.3g} ms", f"{left * 1e3:.3g} ms"
            raise DeadlineExceeded(f"step '{step.name}' was not begun: it takes {took}, and has {has}")
        return end

    def seen(self, step: Step, seconds: float) -> None:
        """Note how long a run of a step took."""
        law = self.laws[step.index]
        if seconds > law > 0.0:
            seconds = law + _RISE * (seconds - law)
        self._learn(step.index, seconds)

    def _learn(self, index: int, law: float) -> None:
        self.laws[index] = law
        used = self._used[index]
        if abs(law - used) > _NOTABLE * used:
            self._used = [*self.laws]
            self._after = after(self._steps, self._readers, self._used)
