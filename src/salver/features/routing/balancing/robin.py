"""Smooth weighted round robin, as nginx has it: instances take turns by weight, without bursts."""

from collections.abc import Sequence

from salver.features.routing.instances import Instance


class RoundRobin:
    """See the module.

    >>> a, b = Instance("a", weight=2), Instance("b", weight=1)
    >>> policy = RoundRobin()
    >>> [policy.choose([a, b], "", 0.0).url for _ in range(6)]
    ['a', 'b', 'a', 'a', 'b', 'a']
    """

    def __init__(self) -> None:
        self._credits: dict[str, float] = {}

    def choose(self, among: Sequence[Instance], key: str, now: float) -> Instance:
        """See :class:`~salver.features.routing.ports.Policy`."""
        credits, total = self._credits, 0.0
        for each in among:
            credits[each.url] = credits.get(each.url, 0.0) + each.share(now)
            total += each.share(now)
        best = max(among, key=lambda each: credits[each.url])
        credits[best.url] -= total
        return best

    def answered(self, instance: Instance, seconds: float, now: float) -> None:
        """Do nothing: turns do not depend on answers."""
