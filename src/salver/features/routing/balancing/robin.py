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

    def choose(self, among: Sequence[Instance], key: str, now: float) -> Instance:
        """See :class:`~salver.features.routing.ports.Policy`."""
        total = 0.0
        for each in among:
            each.load.credit += each.share(now)
            total += each.share(now)
        best = max(among, key=lambda each: each.load.credit)
        best.load.credit -= total
        return best

    def answered(self, instance: Instance, seconds: float, under_way: int, now: float) -> None:
        """Do nothing: turns do not depend on answers."""
