"""Packing of models onto the cores of a machine so that all promises are kept. Pure.

The cores are divided into groups; the models of a group take turns on it (:mod:`.rounds`). A promise that a
group breaks stays broken with more models, so the search can cut whole branches. It is exact unless it ends
at its limit of tries.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from salver.features.planning.rounds import Broken, Promise, Round, shortest_round

_MOST_TRIES: Final = 600  # models put into a group, for one division of the cores; fewer if there are many
_ALL_DIVISIONS: Final = 8  # cores up to which every division is tried
_MOST_COLLISIONS: Final = 8  # models tried as the one that a newcomer collides with


class Group(msgspec.Struct, frozen=True):
    """Cores with the models that take turns on them."""

    cores: tuple[int, ...]
    round: Round


class Refusal(msgspec.Struct, frozen=True):
    """Model whose promise cannot be kept, or that would break another's.

    Attributes:
        broken: A promise that would be broken; the model's own or another's.
        collides: Models without which it could be kept; empty = not even alone.
    """

    name: str
    broken: Broken
    collides: Sequence[str]

    def __str__(self) -> str:
        whose = "" if self.broken.name == self.name else f"{self.broken.name}: "
        if not self.collides:
            return f"{self.name} cannot be kept even alone: {whose}{self.broken}"
        return f"{self.name} collides with {' and '.join(self.collides)}: {whose}{self.broken}"


class Plan(msgspec.Struct, frozen=True):
    """Groups of cores with their models, and the models that have no place."""

    groups: Sequence[Group]
    refused: Sequence[Refusal] = ()

    @property
    def tightness(self) -> float:
        """Largest share of a promise that is used up; at most 1."""
        return max((group.round.tightness for group in self.groups), default=0.0)


def pack(promises: Iterable[Promise], cores: int) -> Plan | None:
    """Return the division of the cores that leaves most room to every promise; None = none keeps them all.

    The order of the promises does not matter.
    """
    ordered = sorted(promises, key=_hardest_first)
    if sum(map(_least_cores, ordered)) > cores:
        return None
    best: list[list[Promise]] | None = None
    sizes: Sequence[int] = ()
    least = float("inf")
    for division in _divisions(ordered, cores):
        found = _assign(ordered, division)
        if found is None:
            continue
        rounds = [shortest_round(group, size) for group, size in zip(found, division, strict=True)]
        tightness = max((each.tightness for each in rounds if isinstance(each, Round)), default=0.0)
        if tightness < least:
            best, sizes, least = found, division, tightness
    if best is None:
        return None
    return Plan(list(_groups(best, sizes)))


def plan(promises: Iterable[Promise], cores: int) -> Plan:
    """Place as many models as possible, by priority, and say of the others what they collide with."""
    promises = list(promises)
    if (whole := pack(promises, cores)) is not None:
        return whole
    kept: list[Promise] = []
    refused: list[Refusal] = []
    found = Plan(())
    for promise in sorted(promises, key=_by_priority):
        more = pack([*kept, promise], cores)
        if more is None:
            refused.append(refusal(promise, kept, cores))
        else:
            kept.append(promise)
            found = more
    return Plan(found.groups, refused)


def refusal(newcomer: Promise, others: Sequence[Promise], cores: int) -> Refusal:
    """Return what a model that has no place beside others collides with.

    The names are those without any one of which it would have a place; if there is no such model, the largest
    ones that would have to go together.
    """
    alone = shortest_round([newcomer], cores)
    if isinstance(alone, Broken):
        return Refusal(newcomer.name, alone, ())
    broken = shortest_round([*others, newcomer], cores)
    if not isinstance(broken, Broken):  # fits one group, and the cores would have to be divided otherwise
        broken = Broken(newcomer.name, "cores", newcomer.least_cores, cores)
    ordered = sorted(others, key=_hardest_first)
    single = [
        other.name
        for other in ordered[:_MOST_COLLISIONS]
        if pack([*(each for each in others if each is not other), newcomer], cores) is not None
    ]
    if single:
        return Refusal(newcomer.name, broken, single[:1])
    going: list[Promise] = []
    for other in ordered:
        going.append(other)
        if pack([*(each for each in others if each not in going), newcomer], cores) is not None:
            break
    return Refusal(newcomer.name, broken, [each.name for each in going])


def _hardest_first(promise: Promise) -> tuple[float, float, str]:
    """Order by the share of the cores that a model needs, then by how tight its promise is."""
    placed = min(promise.laws, key=lambda each: each.cores)
    rows = min(promise.max_rows, max(1, placed.law.rows_within(promise.limit_s / 2)))
    load = promise.rate * placed.seconds(rows) / rows * placed.cores
    return (-load, -placed.seconds(1) / promise.limit_s, promise.name)


def _least_cores(promise: Promise) -> float:
    """Return a lower bound of the cores that a rate keeps busy: by the runs that cost least for each row."""
    costs = []
    for placed in promise.laws:
        most = max(1, min(promise.max_rows, placed.law.rows_within(promise.limit_s)))
        sizes = {most, max(1, min(most, placed.law.kink or most))}
        costs += [placed.threads * placed.law.seconds(rows) / rows for rows in sizes]
    return promise.rate * min(costs)


def _by_priority(promise: Promise) -> tuple[float, float, float, str]:
    """Order by priority, then the easiest first, so that many are kept."""
    load, tight, name = _hardest_first(promise)
    return (-promise.priority, -load, -tight, name)


def _divisions(promises: Sequence[Promise], cores: int) -> Iterator[tuple[int, ...]]:
    """Return divisions of the cores into groups, the largest group first."""
    if cores <= _ALL_DIVISIONS:
        yield from _partitions(cores, cores)
        return
    measured = {placed.cores for promise in promises for placed in promise.laws}
    for size in sorted(
        {1, 2, 4, cores // 2, cores} | {size for size in measured if size <= cores}, reverse=True
    ):
        rest = cores % size
        yield (*itertools.repeat(size, cores // size), *([rest] if rest else []))
    # A large group for the hardest model, and small ones for the rest.
    for size in sorted(size for size in measured if 1 < size < cores):
        yield (size, *itertools.repeat(1, cores - size))


def _partitions(cores: int, most: int) -> Iterator[tuple[int, ...]]:
    if not cores:
        yield ()
    for first in range(min(cores, most), 0, -1):
        for rest in _partitions(cores - first, first):
            yield (first, *rest)


def _assign(promises: Sequence[Promise], division: Sequence[int]) -> list[list[Promise]] | None:
    """Return the models of each group, by first fit with backtracking; None = no assignment was found."""
    groups: list[list[Promise]] = [[] for _ in division]
    tries = itertools.count()
    most = max(2 * len(promises), _MOST_TRIES // max(1, len(promises) // 8))  # a round takes longer for many

    def place(index: int) -> bool:
        if index == len(promises):
            return True
        promise = promises[index]
        seen: set[tuple[int, int]] = set()
        for number, size in enumerate(division):
            if not groups[number]:
                if (size, 0) in seen:  # empty groups of a size are alike
                    continue
                seen.add((size, 0))
            if next(tries) >= most:
                return False
            groups[number].append(promise)
            if isinstance(shortest_round(groups[number], size), Round) and place(index + 1):
                return True
            groups[number].pop()
        return False

    if place(0):
        return groups
    return None


def _groups(assigned: Sequence[Sequence[Promise]], sizes: Sequence[int]) -> Iterator[Group]:
    first = 0
    for members, size in zip(assigned, sizes, strict=True):
        found = shortest_round(members, size)
        assert isinstance(found, Round), "assigned models keep their promises"
        if members:
            yield Group(tuple(range(first, first + size)), found)
        first += size
