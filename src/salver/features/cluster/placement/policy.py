"""Decision which replica runs on which node. Pure.

What runs where it may stays there. A replica moves only if its node drains or has become too small, if
another finds no place otherwise, or if its model could be spread better.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from salver.features.cluster.placement.ejection import Ejection, sets_that_free
from salver.features.cluster.placement.records import Key, Node, Plan, Replica, Unplaced, WantedModel
from salver.features.cluster.placement.room import Mask, Need
from salver.features.cluster.placement.state import State
from salver.features.cluster.placement.steps import plan_of
from salver.features.cluster.placement.telling import amount, why_not

_ROUNDS: Final = 4  # of placing and spreading; each spread move lowers the crowd, so few are needed


class _Task(NamedTuple):
    """Parts of one replica that need a place, in the order in which they get it."""

    priority: float
    rank: int  # replicas that the model has before it
    size: float
    keys: tuple[Key, ...]


def place(nodes: Sequence[Node], wanted: Iterable[WantedModel], current: Iterable[Replica]) -> Plan:
    """Return the changes after which the wanted replicas run, moving as few bytes as possible.

    The first replica of every model comes before the second of any, and large ones come first among equals. A
    replica that runs keeps its devices; what it is said to need counts from now on.

    Args:
        current: What runs now, also on nodes that are no longer there.

    Raises:
        InvalidInput: two nodes, models or replicas have one name.

    >>> nodes = [Node("a", 8, zone="1"), Node("b", 8, zone="2")]
    >>> plan = place(nodes, [WantedModel("fraud", 4, replicas=2)], [Replica("fraud", "a")])
    >>> [(step.action, str(step.key), step.node) for step in plan.steps]
    [('start', 'fraud#1', 'b')]
    """
    state = State(nodes, sorted(wanted, key=lambda each: each.model), current)
    _stop_surplus(state)
    tasks = sorted(_tasks(state), key=lambda task: (-task.priority, task.rank, -task.size, task.keys))
    ejection = Ejection(state)
    for _ in range(_ROUNDS):
        tasks = [task for task in tasks if not _place(state, ejection, task)]
        tasks, has_stopped = _without_survivors(state, tasks)
        has_moved = _spread(state)
        if not (has_stopped or has_moved):
            break
    reasons = [(task.keys, why_not(state, task.keys)) for task in tasks]
    return plan_of(state, [Unplaced(key, why) for keys, why in reasons for key in keys])


def _without_survivors(state: State, tasks: Sequence[_Task]) -> tuple[list[_Task], bool]:
    """Stop what is left of replicas that cannot be whole, and return what then needs a place."""
    found, has_stopped = [], False
    for task in tasks:
        whole = state.parts(task.keys[0])
        alive = [key for key in whole if key in state.home]
        if alive and len(alive) < len(whole):
            for key in alive:
                state.stop(key, "the rest of its gang has no place")
            task, has_stopped = task._replace(keys=whole), True
        found.append(task)
    return found, has_stopped


def _stop_surplus(state: State) -> None:
    """Stop replicas above the wanted number: those on lost or closed nodes first, then the most crowded."""
    numbers: dict[str, set[int]] = {}
    for key in (*state.home, *state.gone):
        numbers.setdefault(key.model, set()).add(key.number)
    for model, have in numbers.items():
        wanted = state.wanted.get(model)
        if wanted is None:
            continue
        while len(have) > wanted.replicas:
            needless = max((Key(model, number) for number in have), key=lambda key: _needlessness(state, key))
            have.remove(needless.number)
            for key in state.parts(needless):
                state.gone.pop(key, None)
                if key in state.home:
                    state.stop(key, f"{wanted.replicas} are wanted")


def _needlessness(state: State, first: Key) -> tuple[int, int, float, int]:
    """Return how little is lost with a replica."""
    wanted, parts = state.wanted[first.model], state.parts(first)
    alive = [state.home[key] for key in parts if key in state.home]
    opened, score = state.room.open_to(wanted.regions), state.room.score(wanted)
    closed = sum(not opened[node] for node in alive)
    crowded = max((float(score[node]) for node in alive), default=0.0)
    return len(parts) - len(alive), closed, crowded, first.number


def _tasks(state: State) -> Iterator[_Task]:
    """Yield what needs a place: what is missing, and what must leave its node."""
    leaving = dict(_leaving(state))
    state.why.update(leaving)
    numbers: dict[str, set[int]] = {name: set() for name in state.wanted}
    for key in (*state.home, *state.gone):
        if key.model in numbers:
            numbers[key.model].add(key.number)
    largest = state.room.size.max(axis=1, initial=1).tolist()
    for wanted in state.wanted.values():
        have = numbers[wanted.model]
        have |= set(_fresh(have, wanted.replicas - len(have)))
        lacking = []
        for number in sorted(have):
            parts = state.parts(Key(wanted.model, number))
            keys = tuple(key for key in parts if key not in state.home or key in leaving)
            if keys:
                lacking.append(keys)
        need = state.need(Key(wanted.model))
        size = max(take / most for take, most in zip(need, largest, strict=True))
        for rank, keys in enumerate(lacking, len(have) - len(lacking)):
            yield _Task(wanted.priority, rank, size * len(keys), keys)


def _fresh(used: set[int], count: int) -> Iterator[int]:
    number = 0
    while count > 0:
        if number not in used:
            yield number
            count -= 1
        number += 1


def _leaving(state: State) -> Iterator[tuple[Key, str]]:
    """Yield what may not stay on its node, with the reason."""
    room = state.room
    for number, node in enumerate(room.nodes):
        if node.draining:
            yield from ((key, f"{node.name} drains") for key in room.held[number])
            continue
        for key in room.held[number]:
            regions = state.wanted[key.model].regions
            if regions and node.region not in regions:
                yield key, f"its model may not run in {node.region or 'a node without a region'}"
        short = room.short(Need(0, 0, 0), number)
        if any(short):
            sets = sets_that_free(room.held[number], short)
            keys = min(sets, key=lambda keys: sum(state.need(key).memory for key in keys), default=())
            yield from ((key, f"{node.name} lacks {amount(short)}") for key in keys)


def _place(state: State, ejection: Ejection, task: _Task) -> bool:
    """Plan the parts of a replica, or leave everything as it is and return False."""
    first = task.keys[0]
    wanted = state.wanted[first.model]
    why = state.why.get(first) or "a replica is missing"
    if first in state.gone:
        why = f"{state.gone[first]} is gone"
    if wanted.gang > 1:
        return _place_gang(state, ejection, task, why)
    old = _take(state, task.keys)
    among = state.room.fits(state.need(first))
    among &= state.open_to(first)
    node = state.room.best(wanted, among)
    if node is not None:
        state.put(first, node, f"{why}; {_choice(state, among, node)}")
        return True
    return ejection.make_room(task.keys, why) or _put_back(state, old)


def _place_gang(state: State, ejection: Ejection, task: _Task, why: str) -> bool:
    """Plan the missing parts in the zone of the others, or else all parts in another zone."""
    model, number, _ = task.keys[0]
    whole = state.parts(task.keys[0])
    before = state.zones.get((model, number))
    tries: list[tuple[int, Sequence[Key]]] = []
    if before is not None and len(task.keys) < len(whole):
        tries.append((before, task.keys))
    opened = np.flatnonzero(state.room.open_to(state.wanted[model].regions))
    ranked = opened[np.argsort(state.room.score(state.wanted[model])[opened], kind="stable")]
    tries += [(zone, whole) for zone in dict.fromkeys(state.room.zone[ranked].tolist())]
    for makes_room in (False, True):  # no other model moves as long as some zone has room
        for zone, keys in tries:
            old = _take(state, keys)
            state.zones[model, number] = zone
            if _fill(state, keys, why) or (makes_room and ejection.make_room(keys, why)):
                return True
            _put_back(state, old)
    state.zones.pop((model, number), None)
    if before is not None:
        state.zones[model, number] = before
    return False


def _fill(state: State, keys: Sequence[Key], why: str) -> bool:
    """Plan parts on as few nodes of their zone as possible; False = it has no room for all."""
    room, need = state.room, state.need(keys[0])
    count = np.full(len(room.nodes), len(keys))
    for free, each in zip(room.free, need, strict=True):
        if each:
            count = np.minimum(count, np.maximum(free, 0) // each)
    count[~state.open_to(keys[0])] = 0
    if count.sum() < len(keys):
        return False
    score = room.score(state.wanted[keys[0].model])
    waiting = list(keys)
    for node in np.lexsort((score, -count)).tolist():
        taken, waiting = waiting[: count[node]], waiting[count[node] :]
        for key in taken:
            state.put(key, node, f"{why}; its gang fits in {room.nodes[node].place or 'one zone'}")
    return True


def _take(state: State, keys: Iterable[Key]) -> list[tuple[Key, int, str | None]]:
    """Take replicas from where they are, and return what :func:`_put_back` needs."""
    return [(key, state.room.take(key), state.why.get(key)) for key in keys if key in state.room.at]


def _put_back(state: State, old: Iterable[tuple[Key, int, str | None]]) -> bool:
    for key, node, why in old:
        state.room.put(key, state.need(key), node)
        if why is not None:
            state.why[key] = why
    return False


def _choice(state: State, among: Mask, node: int) -> str:
    where = state.room.nodes[node].place
    beside = f" in {where}" if where else ""
    return f"{state.room.nodes[node].name}{beside} suits best of {np.count_nonzero(among)} with room"


def _spread(state: State) -> bool:
    """Move replicas to where fewer of their model are; return whether there was one."""
    moved = False
    for wanted in state.wanted.values():
        if wanted.replicas < 2 or wanted.gang > 1 or _is_spread(state, wanted):
            continue
        for key in list(state.room.places(wanted.model)):
            moved |= _spread_one(state, wanted, key)
    return moved


def _is_spread(state: State, wanted: WantedModel) -> bool:
    """Return whether no region, zone or node can have too many replicas; a cheap check of most models."""
    room = state.room
    places = room.places(wanted.model).values()
    opened = room.open_to(wanted.regions)
    for groups in room.levels(wanted):
        used = groups[list(places)].tolist()
        if len(set(used)) < len(used):
            count = len(set(groups[opened].tolist()))
            if max(Counter(used).values()) > math.ceil(len(used) / max(1, count)):
                return False
    return True


def _spread_one(state: State, wanted: WantedModel, key: Key) -> bool:
    node = state.room.take(key)
    among = state.room.fits(state.need(key)) & state.open_to(key)
    crowd, to = state.room.crowd(wanted), state.room.best(wanted, among)
    if to is None or crowd is None or crowd[to] >= crowd[node]:
        state.room.put(key, state.need(key), node)
        return False
    nodes = state.room.nodes
    state.put(
        key, to, f"spread: {nodes[node].place or nodes[node].name} has more of its model; "
        f"{_choice(state, among, to)}"
    )  # fmt: skip
    return True
