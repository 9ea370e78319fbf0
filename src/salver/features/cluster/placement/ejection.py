"""Room for what fits nowhere: others move, as few bytes of them as possible. Pure.

A branch-and-bound search over chains of ejections: a replica takes the place of others, which take free
places or those of yet others. Each is placed once in a search, so it ends; it is exact unless it ends at its
limits, which only large clusters reach.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from salver.features.cluster.placement.records import Key
from salver.features.cluster.placement.room import Need
from salver.features.cluster.placement.state import State

#: Nodes that are tried for one replica.
_NODES: Final = 12
#: Replicas that one search places.
_DEPTH: Final = 16
#: Sets of replicas that are looked at: on one node, in one search, and in one decision.
_SETS, _SEARCH, _DECISION = 512, 30_000, 60_000
#: Most changes of a plan whose order is checked while the search goes on.
_FEW: Final = 256


class Ejection:
    """Search for room. Its limits are those of one decision."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._left = _DECISION
        self._end = 0
        self._placed: dict[Key, int] = {}
        self._best: dict[Key, int] = {}
        self._least = float("inf")

    def __repr__(self) -> str:
        return f"<Ejection with {self._left} sets left>"

    def make_room(self, pending: Sequence[Key], why: str) -> bool:
        """Plan replicas that have no place, and moves of others that make room; False = no way was found."""
        state = self._state
        if self._left <= 0 or not self._is_possible(pending):
            return False
        self._end = self._left - min(self._left, _SEARCH)
        self._placed, self._best, self._least = {}, {}, float("inf")
        self._visit(tuple(pending), 0)
        room = state.room
        for key in self._best:
            if key in room.at:
                room.take(key)
        for key, node in self._best.items():
            cause = state.why.get(key, f"it makes room for {pending[0]}")
            if key in pending:
                cause = why
            cause, _, _ = cause.partition(";")
            state.put(key, node, f"{cause}; {room.nodes[node].name} is part of the cheapest way found")
        return bool(self._best)

    def _is_possible(self, pending: Sequence[Key]) -> bool:
        """Return whether all nodes together have enough room for parts of one replica."""
        room, need = self._state.room, np.array(self._state.need(pending[0]))
        together = np.maximum(room.free[:, room.open_to(())], 0).sum(axis=1)
        return bool((together >= need * len(pending)).all())

    def _visit(self, pending: tuple[Key, ...], cost: int) -> None:
        """Place the first, and the others after it, if that costs less than the best way so far."""
        if cost >= self._least or self._left <= self._end or len(self._placed) + len(pending) > _DEPTH:
            return
        if not pending:
            self._finish(cost)
            return
        key, rest = pending[0], pending[1:]
        state, room = self._state, self._state.room
        wanted, need, home = state.wanted[key.model], state.need(key), state.home.get(key)
        among = state.open_to(key)
        fits = among & room.fits(need)
        score = room.score(wanted)
        for node in _lowest(np.where(fits, score, np.inf)):
            self._try(key, node, rest, cost - need.memory * (node == home))
        full = among & ~fits & (room.size >= np.array(need)[:, None]).all(axis=0)
        for node in _lowest(np.where(full, room.shortage(need), np.inf)):
            for keys in self._sets(node, room.short(need, node)):
                extra = self._leaving(keys, node) - need.memory * (node == home)
                if cost + extra >= self._least:
                    continue
                taken = {each: state.need(each) for each in keys}
                for each in keys:
                    room.take(each)
                self._try(key, node, (*rest, *keys), cost + extra)
                for each, its in taken.items():
                    room.put(each, its, node)

    def _try(self, key: Key, node: int, rest: tuple[Key, ...], cost: int) -> None:
        self._left -= 1
        self._state.room.put(key, self._state.need(key), node)
        self._placed[key] = node
        self._visit(rest, cost)
        del self._placed[key]
        self._state.room.take(key)

    def _finish(self, cost: int) -> None:
        """Note a way in which all have a place, if there is an order for it."""
        state = self._state
        if len(state.why) <= _FEW:
            reasons = state.why
            state.why = reasons | dict.fromkeys(self._placed, "")
            _, stuck = state.order()
            state.why = reasons
            if stuck:
                return
        self._best, self._least = dict(self._placed), cost

    def _leaving(self, keys: Sequence[Key], node: int) -> int:
        """Return the bytes that move if replicas leave a node, without those that are not there yet."""
        return sum(self._state.need(key).memory for key in keys if self._state.home.get(key) == node)

    def _sets(self, node: int, short: Need) -> list[Sequence[Key]]:
        """Return sets of replicas that make room by leaving, those that cost least first."""
        held = {key: need for key, need in self._state.room.held[node].items() if key not in self._placed}
        found = []
        for number, keys in enumerate(sets_that_free(held, short)):
            found.append(keys)
            if number >= _NODES:
                break
        self._left -= min(_SETS, 1 << len(held))
        return sorted(found, key=lambda keys: self._leaving(keys, node))


def sets_that_free(held: Mapping[Key, Need], short: Need) -> Iterator[Sequence[Key]]:
    """Yield sets of replicas that cover what is short, each without a needless one, the smallest first.

    If small sets do not cover it, the only one is that of the largest replicas.

    >>> held = {Key("a"): Need(4, 0, 0), Key("b"): Need(3, 0, 0), Key("c"): Need(2, 0, 0)}
    >>> [[key.model for key in keys] for keys in sets_that_free(held, Need(4, 0, 0))]
    [['a'], ['c', 'b']]
    """
    ordered = sorted(held, key=lambda key: held[key].memory)
    found: list[set[Key]] = []
    fewest = max(_fewest([need[row] for need in held.values()], short[row]) for row in range(3))
    every = itertools.chain.from_iterable(
        itertools.combinations(ordered, count) for count in range(fewest, len(ordered) + 1)
    )
    for keys in itertools.islice(every, _SETS):
        if not _covers(keys, held, short):
            continue
        leaving = set(keys)
        if not any(each <= leaving for each in found):
            found.append(leaving)
            yield keys
    if not found and ordered:
        largest = ordered
        for key in ordered:
            fewer = [each for each in largest if each != key]
            if _covers(fewer, held, short):
                largest = fewer
        if _covers(largest, held, short):
            yield largest


def _fewest(takes: list[int], short: int) -> int:
    """Return how many replicas have to leave at least, one more than there are if all are too few."""
    sums = itertools.accumulate(sorted(takes, reverse=True))
    return next((count for count, together in enumerate(sums, 1) if together >= short), len(takes) + 1)


def _covers(keys: Collection[Key], held: Mapping[Key, Need], short: Need) -> bool:
    return all(sum([held[key][row] for key in keys]) >= least for row, least in enumerate(short) if least)


def _lowest(costs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[int]:
    """Return the indices of the lowest finite costs, the lowest first."""
    order = np.argsort(costs, kind="stable")[:_NODES]
    return [int(index) for index in order if np.isfinite(costs[index])]
