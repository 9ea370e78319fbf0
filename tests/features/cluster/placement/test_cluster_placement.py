"""Placement of replicas on nodes: capacity, moves, gangs, spread and repair."""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.cluster.placement.policy import place
from salver.features.cluster.placement.records import Key, Node, Plan, Replica, WantedModel
from salver.features.cluster.placement.room import Need, need_of
from salver.words.errors import InvalidInput

_NONE = Need(0, 0, 0)
_MIB = 1 << 20


def plus(one: Iterable[int], other: Iterable[int], sign: int = 1) -> Need:
    return Need(*(a + sign * b for a, b in zip(one, other, strict=True)))


def check(
    nodes: Sequence[Node], wanted: Sequence[WantedModel], current: Sequence[Replica], plan: Plan
) -> None:
    """Do the steps one by one: none may exceed a node, serve less than before, or end elsewhere than said."""
    needs = {each.model: need_of(each) for each in wanted}
    sizes = {node.name: need_of(node) for node in nodes}
    opened = {node.name for node in nodes if not node.draining}
    used = dict.fromkeys(sizes, _NONE)
    where: dict[Key, str] = {}
    devices: dict[str, set[int]] = defaultdict(set)
    held: dict[Key, Sequence[int]] = {}
    for replica in current:
        if replica.node in sizes:
            where[replica.key] = replica.node
            used[replica.node] = plus(used[replica.node], needs.get(replica.model, _NONE))
            devices[replica.node].update(replica.devices)
            held[replica.key] = replica.devices
    for step in plan.steps:
        need = needs.get(step.key.model, _NONE)
        assert step.why
        if step.action != "stop":
            assert step.node in opened
            used[step.node] = plus(used[step.node], need)
            for take, have, size in zip(need, used[step.node], sizes[step.node], strict=True):
                assert have <= size or not take, f"{step} exceeds its node"
            assert len(step.devices) == need.devices
            assert devices[step.node].isdisjoint(step.devices)
            assert all(0 <= number < sizes[step.node].devices for number in step.devices)
            devices[step.node].update(step.devices)
        if step.action != "start":
            left = where.pop(step.key)
            assert left == (step.source or step.node)
            used[left] = plus(used[left], need, -1)
            devices[left].difference_update(held[step.key])
        if step.action != "stop":
            assert step.key not in where
            where[step.key] = step.node
            held[step.key] = step.devices
    assert where == {replica.key: replica.node for replica in plan.replicas}
    unplaced = {each.key for each in plan.unplaced}
    zone_of = {node.name: (node.region, node.zone) for node in nodes}
    for each in wanted:
        numbers = {key.number for key in where if key.model == each.model}
        missing = {key.number for key in unplaced if key.model == each.model and key not in where}
        assert len(numbers | missing) == each.replicas
        for number in numbers:
            keys = [Key(each.model, number, part) for part in range(each.gang)]
            assert all(key in where for key in keys), "a gang is whole or not there"
    assert {key.model for key in where} <= needs.keys()
    started = {step.key for step in plan.steps if step.action != "stop"}
    for each in wanted:
        if each.gang > 1:
            for number in {key.number for key in started if key.model == each.model}:
                keys = [Key(each.model, number, part) for part in range(each.gang)]
                assert len({zone_of[where[key]] for key in keys}) == 1


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Node], list[WantedModel]]:
    nodes = [
        Node(
            f"n{number}",
            draw(st.integers(0, 20)),
            draw(st.integers(0, 8)),
            draw(st.integers(0, 3)),
            draw(st.sampled_from("ab")),
            draw(st.sampled_from(("eu", "us"))),
            draw(st.booleans()) and draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 6)))
    ]
    wanted = [
        WantedModel(
            f"m{number}",
            draw(st.integers(0, 8)),
            draw(st.integers(0, 4)),
            draw(st.sampled_from((0, 0.25, 1, 2))),
            draw(st.sampled_from((0, 0, 1))),
            draw(st.sampled_from((1, 1, 1, 2, 3))),
            draw(st.sampled_from(("node", "zone", "region"))),
            draw(st.sampled_from(((), (), ("eu",)))),
            draw(st.integers(0, 1)),
        )
        for number in range(draw(st.integers(0, 6)))
    ]
    return nodes, wanted


@given(clusters(), st.data())
def test_plans_are_feasible_at_each_step_and_leave_nothing_to_do(
    cluster: tuple[list[Node], list[WantedModel]], data: st.DataObject
) -> None:
    nodes, wanted = cluster
    plan = place(nodes, wanted, [])
    check(nodes, wanted, [], plan)
    again = place(nodes, wanted, plan.replicas)
    assert not again.steps

    lost = data.draw(st.sets(st.sampled_from([node.name for node in nodes]))) if nodes else set()
    left = [node for node in nodes if node.name not in lost]
    changed = [
        msgspec.structs.replace(
            each, replicas=data.draw(st.integers(0, 4)), memory=data.draw(st.integers(0, 9))
        )
        for each in wanted
        if data.draw(st.integers(0, 4))
    ]
    repair = place(left, changed, plan.replicas)
    check(left, changed, plan.replicas, repair)
    after = place(left, changed, repair.replicas)
    check(left, changed, repair.replicas, after)
    assert not after.steps


def fewest_bytes(
    nodes: Sequence[Node], wanted: Sequence[WantedModel], current: Mapping[str, str]
) -> int | None:
    """Return the fewest bytes that place all models, each moved at most once: a shortest path of states."""
    memory = {each.model: each.memory for each in wanted}
    models, sizes = sorted(memory), {node.name: node.memory for node in nodes}
    begin = tuple(current.get(model) for model in models)
    queue, done, ties = [(0, 0, begin)], set(), itertools.count(1)
    while queue:
        cost, _, state = heapq.heappop(queue)
        if None not in state:
            return cost
        if state in done:
            continue
        done.add(state)
        used = Counter[str]()
        for model, node in zip(models, state, strict=True):
            if node:
                used[node] += memory[model]
        for number, model in enumerate(models):
            if state[number] != begin[number]:
                continue
            for node, size in sizes.items():
                if node != state[number] and used[node] + memory[model] <= size:
                    then = (*state[:number], node, *state[number + 1 :])
                    heapq.heappush(queue, (cost + memory[model], next(ties), then))
    return None


@given(
    st.lists(st.integers(4, 12), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(1, 8), st.integers(-2, 3)), min_size=2, max_size=6),
)
def test_moves_hardly_more_bytes_than_needed(sizes: list[int], models: list[tuple[int, int]]) -> None:
    nodes = [Node(f"n{number}", size) for number, size in enumerate(sizes)]
    wanted = [WantedModel(f"m{number}", memory, spread="node") for number, (memory, _) in enumerate(models)]
    free, current = dict(enumerate(sizes)), {}
    for each, (memory, node) in zip(wanted, models, strict=True):
        if free.get(node, 0) >= memory:
            current[each.model] = f"n{node}"
            free[node] -= memory
    least = fewest_bytes(nodes, wanted, current)
    plan = place(nodes, wanted, [Replica(model, node) for model, node in current.items()])
    if least is not None:
        assert not plan.unplaced
        assert plan.moved_bytes <= 1.2 * least


def steps_of(plan: Plan) -> list[tuple[str, str, str]]:
    return [(step.action, str(step.key), step.node) for step in plan.steps]


def test_only_what_is_lost_with_a_node_starts_elsewhere() -> None:
    nodes = [Node(f"n{number}", 100, 8) for number in range(3)]
    wanted = [WantedModel(f"m{number}", 10, replicas=1 + number % 2) for number in range(12)]
    before = place(nodes, wanted, []).replicas
    repair = place(nodes[1:], wanted, before)
    lost = {replica.key for replica in before if replica.node == "n0"}
    assert {step.key for step in repair.steps} == lost
    assert all(step.action == "start" and step.why.startswith("n0 is gone; ") for step in repair.steps)
    assert repair.moved_bytes == 10 * len(lost)


def test_replicas_are_spread_over_regions_then_zones_then_nodes() -> None:
    nodes = [
        Node(f"{region}{zone}{number}", 100, zone=zone, region=region)
        for region in ("eu", "us")
        for zone in "ab"
        for number in range(2)
    ]
    found = place(nodes, [WantedModel("m", 1, replicas=6, spread="region")], []).replicas
    assert Counter(replica.node[:2] for replica in found) == {"eu": 3, "us": 3}
    assert set(Counter(replica.node[:3] for replica in found).values()) == {1, 2}
    assert set(Counter(replica.node for replica in found).values()) == {1}


def test_replicas_spread_again_when_a_region_returns() -> None:
    nodes = [Node("e", 10, region="eu"), Node("u", 10, region="us")]
    wanted = [WantedModel("m", 2, replicas=2, spread="region"), WantedModel("alone", 2)]
    together = place(nodes[:1], wanted, []).replicas
    assert {replica.node for replica in together} == {"e"}
    plan = place(nodes, wanted, together)
    assert [(step.action, step.key.model, step.node) for step in plan.steps] == [("move", "m", "u")]
    assert plan.steps[0].why.startswith("spread: ")


def test_a_node_that_drains_is_left_if_there_is_room() -> None:
    nodes = [Node("a", 10 * _MIB, draining=True), Node("b", 5 * _MIB)]
    current = [Replica("x", "a"), Replica("y", "a")]
    plan = place(nodes, [WantedModel("x", 5 * _MIB), WantedModel("y", 4 * _MIB)], current)
    assert steps_of(plan) == [("move", "x#0", "b")]
    assert plan.steps[0].source == "a"
    assert [(str(each.key), each.why) for each in plan.unplaced] == [
        ("y#0", "no node has room for 4 MiB of memory: b comes closest and lacks 4 MiB of memory")
    ]
    assert Replica("y", "a") in plan.replicas


def test_a_node_that_became_too_small_gives_up_as_little_as_possible() -> None:
    current = [Replica(name, "a") for name in "xyz"]
    plan = place(
        [Node("a", 7), Node("b", 10)],
        [WantedModel("x", 5), WantedModel("y", 2), WantedModel("z", 3)],
        current,
    )
    assert steps_of(plan) == [("move", "z#0", "b")]


def test_a_gang_is_in_one_zone_and_whole_or_not_there() -> None:
    nodes = [Node(f"{zone}{number}", 10 * _MIB, devices=2, zone=zone) for zone in "ab" for number in range(2)]
    wanted = [WantedModel("large", 5 * _MIB, gang=3, devices=1)]
    first = place(nodes, wanted, [])
    assert len({replica.node[0] for replica in first.replicas}) == 1
    assert [replica.devices for replica in first.replicas] == [(0,), (1,), (0,)]
    zone = first.replicas[0].node[0]
    left = [node for node in nodes if node.name != f"{zone}0"]
    moved = place(left, wanted, first.replicas)
    check(left, wanted, first.replicas, moved)
    assert {replica.node[0] for replica in moved.replicas} == set("ab") - {zone}
    small = [left[0]]
    ended = place(small, wanted, [Replica("large", small[0].name, 0, 0, (0,))])
    assert [(step.action, step.why) for step in ended.steps] == [
        ("stop", "the rest of its gang has no place")
    ]
    assert {each.why for each in ended.unplaced} == {
        "no zone has room for its 3 parts of 5 MiB of memory and 1 device each"
    }


def test_what_is_important_comes_first_and_each_model_before_second_replicas() -> None:
    wanted = [
        WantedModel("plain", 2, replicas=2),
        WantedModel("other", 2, replicas=2),
        WantedModel("urgent", 2, replicas=2, priority=1),
    ]
    plan = place([Node("a", 8)], wanted, [])
    assert sorted(Counter(replica.model for replica in plan.replicas).items()) == [
        ("other", 1),
        ("plain", 1),
        ("urgent", 2),
    ]


def test_stops_what_is_not_wanted_before_anything_starts() -> None:
    current = [Replica("old", "a"), Replica("m", "a", 0), Replica("m", "a", 1), Replica("m", "b", 2)]
    plan = place(
        [Node("a", 6), Node("b", 6)], [WantedModel("m", 2, replicas=2), WantedModel("new", 4)], current
    )
    assert [(step.action, step.key.model, step.node, step.why) for step in plan.steps[:2]] == [
        ("stop", "old", "a", "its model is not wanted"),
        ("stop", "m", "a", "2 are wanted"),
    ]
    assert steps_of(plan)[2:] == [("start", "new#0", "a")]


def test_models_without_accelerators_leave_nodes_with_some_alone() -> None:
    plan = place(
        [Node("gpu", 100, 8, 2), Node("cpu", 4, 8)],
        [WantedModel("a", 2), WantedModel("b", 2), WantedModel("c", 2)],
        [],
    )
    assert Counter(replica.node for replica in plan.replicas) == {"cpu": 2, "gpu": 1}


@pytest.mark.parametrize(
    ("nodes", "wanted", "current", "text"),
    [
        ([Node("a", 1), Node("a", 1)], [], [], "two nodes"),
        ([], [WantedModel("m", 1), WantedModel("m", 1)], [], "m is given twice"),
        ([], [], [Replica("m", "a"), Replica("m", "b")], "m#0 is given twice"),
    ],
)
def test_refuses_what_is_named_twice(
    nodes: list[Node], wanted: list[WantedModel], current: list[Replica], text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        place(nodes, wanted, current)


def test_the_search_for_room_ends_where_only_crumbs_are_left() -> None:
    nodes = [Node(f"n{number}", 63) for number in range(40)]
    wanted = [WantedModel(f"m{number}", 2) for number in range(40 * 31 + 2)]
    plan = place(nodes, wanted, [])
    assert len(plan.unplaced) == 2
    assert not place(nodes, wanted, plan.replicas).steps
