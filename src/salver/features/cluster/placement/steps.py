"""Steps of a plan, in an order in which each fits when its turn comes."""

from collections.abc import Sequence
from typing import Literal

from salver.features.cluster.placement.records import Plan, Replica, Step, Unplaced
from salver.features.cluster.placement.state import State


def plan_of(state: State, unplaced: Sequence[Unplaced]) -> Plan:
    """Return the plan that leads to a state."""
    nodes, room = state.room.nodes, state.room
    unplaced = list(unplaced)
    done, stuck = state.order()
    for key in stuck:
        room.take(key)
        unplaced.append(Unplaced(key, "it waits for room that others leave only after it has moved"))
        if key in state.home:
            room.put(key, state.need(key), state.home[key])
    used = [set[int]() for _ in nodes]
    for key, node in state.home.items():
        used[node].update(state.devices[key])
    steps = [Step("stop", key, nodes[node].name, why) for key, node, why in state.stopped]
    devices = {**state.devices}
    for key in done:
        node, source, need = room.at[key], state.home.get(key), state.need(key)
        devices[key] = ()
        if need.devices:
            free = [number for number in range(nodes[node].devices) if number not in used[node]]
            devices[key] = tuple(free[: need.devices])
            used[node].update(devices[key])
        action: Literal["start", "move"] = "start"
        left = ""
        if source is not None:
            action, left = "move", nodes[source].name
            used[source].difference_update(state.devices[key])
        steps.append(Step(action, key, nodes[node].name, state.why[key], left, devices[key], need.memory))
    replicas = [
        Replica(key.model, nodes[node].name, key.number, key.part, devices.get(key, ()))
        for key, node in room.at.items()
    ]
    return Plan(steps, replicas, unplaced)
