"""Reasons for people: what is needed, and why a replica has no place. Pure."""

from collections.abc import Sequence

import numpy as np

from salver.features.cluster.placement.records import Key
from salver.features.cluster.placement.room import Need
from salver.features.cluster.placement.state import State
from salver.words.sizes import told_bytes


def amount(need: Need) -> str:
    """Return what is needed or lacking, without what is 0.

    >>> amount(Need(3 << 30, 1500, 0))
    '3 GiB of memory and 1.5 cores'
    """
    parts = []
    if need.memory:
        parts.append(f"{told_bytes(need.memory)} of memory")
    if need.millicores:
        parts.append(f"{need.millicores / 1000:g} cores")
    if need.devices:
        parts.append(f"{need.devices} device{'s' * (need.devices > 1)}")
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:]))) or "nothing"


def why_not(state: State, keys: Sequence[Key]) -> str:
    """Return why the parts of a replica have no place."""
    room, need, wanted = state.room, state.need(keys[0]), state.wanted[keys[0].model]
    among = room.open_to(wanted.regions)
    if not among.any():
        where = f" in {', '.join(wanted.regions)}" if wanted.regions else ""
        return f"there is no node{where} that takes replicas"
    node = int(np.where(among, room.shortage(need), np.inf).argmin())
    lacks = room.short(need, node)
    if len(keys) > 1 and not any(lacks):
        return f"no zone has room for its {len(keys)} parts of {amount(need)} each"
    closest = f"{room.nodes[node].name} comes closest and lacks {amount(lacks)}"
    return f"no node has room for {amount(need)}: {closest}"
