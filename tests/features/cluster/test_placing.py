"""Choice of nodes for replicas, one after the other."""

import pytest

from salver.features.cluster.placement.records import Node
from salver.features.cluster.placing import SUSPECT_S, PlacedReplica, Placer
from salver.words.errors import LoadFailed

NODES = [Node("a", 10), Node("b", 10), Node("c", 4)]


def chosen(placer: Placer, model: str = "m", memory: int = 3) -> str:
    with placer.place_for(model, memory, NODES) as place:
        return place.node


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
    with placer.place_for("m", 6, NODES) as first, placer.place_for("m", 6, NODES) as second:
        assert {first.node, second.node} == {"a", "b"}
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
    with placer.place_for("m", 3, [Node("a", 10)]) as place:
        assert place.node == "a"


def test_a_choice_says_what_was_against_the_other_nodes() -> None:
    nodes = [Node(name, 10, zone=zone) for name, zone in zip("abcde", "11223", strict=True)]
    nodes += [Node("f", 2), Node("g", 10)]
    running = [PlacedReplica("m", 3, "a"), PlacedReplica("other", 4, "c"), PlacedReplica("other", 5, "d")]
    placer = Placer(lambda: running, lambda: 0.0)
    placer.suspect("g")
    with placer.place_for("m", 3, nodes) as place:
        assert (place.node, place.memory) == ("e", 3)
        assert place.others == {
            "a": "it has a replica of the model",
            "b": "its zone has a replica of the model",
            "c": "no less of it is taken: 6 B are free",
            "d": "no less of it is taken: 5 B are free",
            "f": "it lacks 1 B of memory",
            "g": "it has just lost a replica",
        }


def test_room_for_more_leaves_others_in_place() -> None:
    placer = Placer(lambda: [PlacedReplica("m", 4, "a"), PlacedReplica("other", 7, "b")], lambda: 0.0)
    assert placer.room("m", 4, NODES, 2) == (2, "")
    count, why = placer.room("m", 4, NODES, 5)
    assert count == 2 and "lacks" in why
