"""Claim: more models than fit are served with fewer loads than by LRU, and faster than by other servers.

Simulated are the hit ratios on a trace of requests: the server's own policy beside LRU and Belady. The trace
is ``cluster-trace-v2026-GenAI/lora_request_trace.csv`` of https://github.com/alibaba/clusterdata
(26,823 requests for 87 image models in 24 days; for research and study, so that it is not copied here)::

    benchmarks/model_swaps.py lora_request_trace.csv

Each model takes one of k slots, and each load the same time. LRU is the floor; Belady knows the future, and
no policy that loads on demand has more hits. With other servers, each on one machine with the same slots::

    benchmarks/model_swaps.py --beside triton,mlserver,rayserve

replays requests that are drawn (Zipf) from four callers, in three to four minutes (``swap_peers.py``).
"""

import argparse
import csv
from collections import Counter, OrderedDict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import swap_peers

from salver.features.memory import policy
from salver.features.memory.estimates import Need
from salver.features.memory.snapshot import Admit, Demand, Evict, Snapshot
from salver.features.memory.states import Resident
from salver.words.artifacts import Manifest, Memory, ModelConfig
from salver.words.messages import ModelId

SLOTS: Final = (2, 4, 8, 16)
Trace = Sequence[tuple[float, str]]


class Outcome(NamedTuple):
    """Hits of a policy, and the loads that it took."""

    hits: int
    loads: int


def lru(trace: Trace, slots: int) -> Outcome:
    """Replay with the model that was asked longest ago making room."""
    resident: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for _, name in trace:
        if name in resident:
            hits += 1
            resident.move_to_end(name)
            continue
        if len(resident) == slots:
            resident.popitem(last=False)
        resident[name] = None
    return Outcome(hits, len(trace) - hits)


def lfu(trace: Trace, slots: int) -> Outcome:
    """Replay with the model that was asked least often so far making room."""
    resident: set[str] = set()
    counts: Counter[str] = Counter()
    hits = 0
    for _, name in trace:
        counts[name] += 1
        if name in resident:
            hits += 1
            continue
        if len(resident) == slots:
            resident.discard(min(resident, key=lambda each: (counts[each], each)))
        resident.add(name)
    return Outcome(hits, len(trace) - hits)


def belady(trace: Trace, slots: int) -> Outcome:
    """Replay with the model that is asked again last making room."""
    following: list[int] = [0] * len(trace)
    seen: dict[str, int] = {}
    for at in range(len(trace) - 1, -1, -1):
        name = trace[at][1]
        following[at] = seen.get(name, len(trace))
        seen[name] = at
    resident: dict[str, int] = {}
    hits = 0
    for at, (_, name) in enumerate(trace):
        if name in resident:
            hits += 1
        elif len(resident) == slots:
            del resident[max(resident, key=resident.__getitem__)]
        resident[name] = following[at]
    return Outcome(hits, len(trace) - hits)


def served(trace: Trace, slots: int) -> Outcome:
    """Replay with the server's own records and policy; each load takes the same time."""
    records: dict[str, Resident] = {}
    resident: dict[str, Resident] = {}
    hits = 0
    for now, name in trace:
        record = records.get(name)
        if record is None:
            config = ModelConfig(memory=Memory(min_s=0.0))
            manifest = Manifest(ModelId(name, "1"), Path(name), "onnx", "onnx", config, name)
            record = records[name] = Resident(manifest, Need(1, 1), now)
        hits += record.place == "resident"
        while record.place != "resident":
            versions = [each.version(now) for each in (*resident.values(), record)]
            step = policy.next_step(Snapshot(now, slots, 0, 0, versions, [Demand(record.manifest.id, now)]))
            if isinstance(step, Evict):
                resident.pop(step.id.name).place = "absent"
            else:
                assert isinstance(step, Admit), step
                record.place, record.since = "resident", now - 1.0  # long enough to make room again
                resident[name] = record
        record.asked(1, now)
    return Outcome(hits, len(trace) - hits)


def closed(found: Outcome, floor: Outcome, best: Outcome) -> float:
    """Return the part of the gap between two outcomes that another one closes."""
    return (found.hits - floor.hits) / (best.hits - floor.hits)


def read(path: Path) -> list[tuple[float, str]]:
    """Read the trace, in the order of the file."""
    with path.open() as file:
        rows = [
            (datetime.fromisoformat(row["gmt_create"]).timestamp(), row["checkpoint_model_version_id"])
            for row in csv.DictReader(file)
        ]
    return [row for row in rows if row[1]]


def drawn(count: int, names: int, exponent: float) -> Trace:
    """Draw requests, one a second, for models whose popularity follows Zipf's law."""
    weights = np.arange(1, names + 1) ** -exponent
    numbers = np.random.default_rng(1).choice(names, count, p=weights / weights.sum())
    return [(float(at), f"m{number}") for at, number in enumerate(numbers)]


def main() -> None:
    """Print the hit ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?", help="default: drawn")
    parser.add_argument("--slots", type=int, nargs="*")
    parser.add_argument(
        "--beside", type=lambda text: text.split(","), help="other servers to replay with, too"
    )
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--zipf", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    trace = read(given.trace) if given.trace else drawn(given.requests, given.models, given.zipf)
    print(f"{len(trace)} requests, {len({name for _, name in trace})} models")
    print(f"{'slots':>5} {'LRU':>6} {'LFU':>6} {'served':>6} {'Belady':>6}  gap closed")
    for slots in given.slots or SLOTS:
        floor, often, best = lru(trace, slots), lfu(trace, slots), belady(trace, slots)
        found = served(trace, slots)
        ratios = " ".join(f"{each.hits / len(trace):.4f}" for each in (floor, often, found, best))
        print(f"{slots:5} {ratios}  {closed(found, floor, best):.1%}")
    if given.beside:
        for slots in given.slots or (given.models // 4,):
            print(f"\n{slots} slots, {swap_peers.CALLERS} callers, medians of {given.rounds} rounds in turn")
            swap_peers.compare([name for _, name in trace], slots, given.beside, given.rounds)


if __name__ == "__main__":
    main()
