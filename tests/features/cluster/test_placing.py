"""Choice of nodes for replicas, one after the other."""

import pytest

from salver.features.cluster.placement.records import Node
from salver.features.cluster.placing import SUSPECT_S, PlacedReplica, Placer
from salver.words.errors import LoadFailed

NODES = [Node("a", 10), Node("b", 10), Node("c", 4)]


def chosen(placer: Placer, model: str = "m", memory: int = 3) -> str:
    with placer.node_for(model, memory, NODES) as node:
        return node


def test_replicas_spread_over_nodes_with_room() -> None:
    running: list[PlacedReplica] = []
    placer = Placer(lambda: running, lambda: 0.0)
    for _ in range(3):
        running.append(PlacedReplica("m", 3, chosen(placer)))
    assert sorted(each.node for each in running) == ["a", "b", "c"]
    assert chosen(placer, "large", 7) in ("a", "b")
    with pytest.raises(LoadFailed, match=r"'large' has no place on the cluster: .*lacks"):
        chosen(placer, "large", 8)


def test_models_spread_over_nodes() -> None:
    running: list[PlacedReplica] = []
    placer = Placer(lambda: running, lambda: 0.0)
    for model in "klm":
        running.append(PlacedReplica(model, 2, chosen(placer, model, 2)))
    assert sorted(each.node for each in running) == ["a", "b", "c"]
    assert chosen(placer, "n", 2) != "c"  # of which the most is taken


def test_those_that_start_at_the_same_time_are_counted() -> None:
    placer = Placer(lambda: (), lambda: 0.0)
    with placer.node_for("m", 6, NODES) as first, placer.node_for("m", 6, NODES) as second:
        assert {first, second} == {"a", "b"}
        with pytest.raises(LoadFailed):
            chosen(placer, "m", 6)


def test_a_node_that_lost_a_replica_gets_no_other_for_a_while() -> None:
    now = 0.0
    placer = Placer(lambda: [PlacedReplica("m", 3, "b"), PlacedReplica("m", 3, "c")], lambda: now)
    assert chosen(placer) == "a"
    placer.suspect("a")
    assert chosen(placer) == "b"
    for node in "bc":  # nobody is trusted, so all are
        placer.suspect(node)
    assert chosen(placer) == "a"
    placer = Placer(lambda: (), lambda: now)
    placer.suspect("a")
    now = SUSPECT_S
    with placer.node_for("m", 3, [Node("a", 10)]) as node:
        assert node == "a"


def test_room_for_more_leaves_others_in_place() -> None:
    placer = Placer(lambda: [PlacedReplica("m", 4, "a"), PlacedReplica("other", 7, "b")], lambda: 0.0)
    assert placer.room("m", 4, NODES, 2) == (2, "")
    count, why = placer.room("m", 4, NODES, 5)
    assert count == 2 and "lacks" in why
