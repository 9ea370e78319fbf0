"""Claim: 1,000 nodes with 10,000 models in three regions are decided in a second; a lost region is repaired.

    python benchmarks/placement.py
    python benchmarks/placement.py --sizes 100 --publish

A day in steps of an hour: loads change as in real traces (`data/placement_traces.json` names them), after
eight hours a region is lost, and four hours later it returns. Then the first ten hours of it on nodes of
which the other two regions have too few. The policy is the one of `salver placement
explain`. How much memory models take is made up: log-normal around 2 GiB. Times are processor time of this
process.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import page
from msgspec.structs import replace

from salver.features.cluster.placement.policy import place
from salver.features.cluster.placement.records import Node, Plan, Replica, WantedModel

PAGE = page.ROOT / "docs" / "explanation" / "placement.md"
TRACES = json.loads((Path(__file__).parent / "data" / "placement_traces.json").read_text())
GIB = 1 << 30
REGIONS = ("eu", "us", "ap")
HOURS, LOST, BACK = 24, 8, 12
TRACED_S = 21 * 60
FILL = 0.6  # of all memory at the most: nine tenths of what two of three regions have
OVERFULL = 0.9  # a third more than two of three regions have


def models(count: int, chance: random.Random) -> list[tuple[WantedModel, float, str]]:
    """Models without replicas, the cores that each keeps busy on average, and its curve of the day."""
    found = []
    for number in range(count):
        calls, seconds = chance.choice(TRACES["functions"])
        busy = calls * seconds / TRACED_S * chance.lognormvariate(0, 1)
        memory = int(min(48, chance.lognormvariate(math.log(2), 0.9)) * GIB)
        devices = int(chance.random() < 0.02)
        gang = 1 + int(devices and chance.random() < 0.25)
        spread = chance.choice(("zone", "region"))
        wanted = WantedModel(
            f"m{number}", memory, 0, min(1.0, max(0.05, round(busy, 2))), devices, gang, spread
        )
        found.append((wanted, busy, chance.choice(list(TRACES["curves"]))))
    return found


def wanted_at(hour: int, catalogue: Iterable[tuple[WantedModel, float, str]]) -> list[WantedModel]:
    """The models with as many replicas as their load of an hour needs, two at least if they span regions."""
    found = []
    for wanted, busy, curve in catalogue:
        needed = math.ceil(busy * TRACES["curves"][curve][hour] / 0.7 / wanted.cores)
        found.append(replace(wanted, replicas=min(12, max(needed, 1 + (wanted.spread == "region")))))
    return found


def nodes_for(count: int, days: Sequence[Sequence[WantedModel]], fill: float) -> list[Node]:
    """Equal nodes, of which the fullest hour fills a part; every seventh has accelerators."""

    def most(of: str) -> float:
        return max(sum(getattr(each, of) * each.replicas * each.gang for each in day) for day in days)

    memory, cores, devices = (most(of) / fill / count for of in ("memory", "cores", "devices"))
    return [
        Node(
            f"n{number}",
            int(max(memory, 64 * GIB)),
            math.ceil(max(cores, 8)),
            0 if number % 7 else max(8, math.ceil(devices * 8)),
            f"z{number // 3 % 3}",
            REGIONS[number % 3],
        )
        for number in range(count)
    ]


def least_bytes(nodes: Iterable[Node], wanted: Iterable[WantedModel], current: Iterable[Replica]) -> int:
    """What has to be filled anew whatever the policy: replicas that are wanted and do not run."""
    alive = {node.name for node in nodes}
    have: dict[str, int] = {}
    for replica in current:
        have[replica.model] = have.get(replica.model, 0) + (replica.node in alive)
    return sum(each.memory * max(0, each.replicas * each.gang - have.get(each.model, 0)) for each in wanted)


def day(count: int, seed: int = 1, fill: float = FILL, last: int = HOURS) -> Iterator[dict[str, Any]]:
    """Decide each hour of a day, and tell what it took."""
    catalogue = models(10 * count, random.Random(seed))
    hours = [wanted_at(hour, catalogue) for hour in range(HOURS)]
    everywhere = nodes_for(count, hours, fill)
    running: Sequence[Replica] = ()
    for hour, wanted in enumerate(hours[:last]):
        nodes = everywhere
        if LOST <= hour < BACK:
            nodes = [node for node in everywhere if node.region != REGIONS[0]]
        started = time.process_time()
        plan = place(nodes, wanted, running)
        seconds = time.process_time() - started
        yield {
            "hour": hour,
            "seconds": seconds,
            "steps": len(plan.steps),
            "moves": sum(step.action == "move" for step in plan.steps),
            "replicas": len(plan.replicas),
            "unplaced": len(plan.unplaced),
            "bytes": plan.moved_bytes,
            "least": least_bytes(nodes, wanted, running),
            "most_full": fullest(nodes, wanted, plan),
        }
        running = plan.replicas


def fullest(nodes: Iterable[Node], wanted: Iterable[WantedModel], plan: Plan) -> float:
    """The largest part of a node's memory, cores or devices that is taken; above 1 = the plan is wrong."""
    needs = {each.model: each for each in wanted}
    used = {node.name: [0.0, 0.0, 0.0] for node in nodes}
    for replica in plan.replicas:
        need, row = needs[replica.model], used[replica.node]
        for place_of, take in enumerate((need.memory, need.cores, need.devices)):
            row[place_of] += take
    sizes = {node.name: (node.memory, node.cores, node.devices) for node in nodes}
    parts = [
        have / size for name, row in used.items() for have, size in zip(row, sizes[name], strict=True) if size
    ]
    return max(parts, default=0.0)


def summary(
    count: int, hours: Sequence[Mapping[str, Any]], overfull: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    lost, back = hours[LOST], hours[BACK]
    usual = sorted(hour["seconds"] for hour in hours[1:] if hour is not lost and hour is not back)
    return {
        "nodes": count,
        "models": 10 * count,
        "replicas": hours[0]["replicas"],
        "first_s": hours[0]["seconds"],
        "usual_s": usual[len(usual) // 2],
        "lost_s": lost["seconds"],
        "back_s": back["seconds"],
        "overfull_s": max(hour["seconds"] for hour in overfull),
        "overfull_unplaced": overfull[LOST]["unplaced"],
        "lost_steps": lost["steps"],
        "back_moves": back["moves"],
        "unplaced": max(hour["unplaced"] for hour in hours),
        "bytes_ratio": lost["bytes"] / lost["least"],
        "most_full": max(hour["most_full"] for hour in hours),
    }


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, bool]]:
    row = rows[-1]
    slowest = max(row[name] for name in ("first_s", "usual_s", "lost_s", "back_s", "overfull_s"))
    return [
        (f"slowest decision, {row['nodes']:,} nodes", "1 s at most", f"{slowest:.2f} s", slowest <= 1),
        ("replicas without a place after the loss", "0", str(row["unplaced"]), not row["unplaced"]),
        (
            "bytes after the loss, of the least",
            "1.2 at most",
            f"{row['bytes_ratio']:.3f}",
            row["bytes_ratio"] <= 1.2,
        ),
    ]


def text(result: Mapping[str, Any]) -> str:
    lines = [
        page.provenance(result),
        "",
        "| nodes | models | replicas | first decision | an hour later | region lost | region back "
        "| steps then | bytes of the least | fullest node | too full: slowest | without a place |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['nodes']:,} | {row['models']:,} | {row['replicas']:,} | {row['first_s']:.3f} s | "
        f"{row['usual_s']:.3f} s | {row['lost_s']:.3f} s | {row['back_s']:.3f} s | "
        f"{row['lost_steps']:,}, {row['back_moves']:,} | {row['bytes_ratio']:.3f} | {row['most_full']:.1%} | "
        f"{row['overfull_s']:.3f} s | {row['overfull_unplaced']:,} |"
        for row in result["rows"]
    ]
    return "\n".join([*lines, "", *page.targets(verdicts(result["rows"]))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="10,30,100,300,1000", help="numbers of nodes; ten models for each")
    page.add_arguments(parser, "placement")
    given = parser.parse_args()
    quiet = page.host.Quiet()
    rows = []
    for size in map(int, page.words(given.sizes)):
        rows.append(summary(size, [*day(size)], [*day(size, fill=OVERFULL, last=LOST + 2)]))
    settings = {
        **{"regions": len(REGIONS), "hours": HOURS, "lost": LOST, "back": BACK},
        **{"fill": FILL, "overfull": OVERFULL},
    }
    result = {"host": page.host.facts(), "settings": settings, "noise": quiet.verdict(), "rows": rows}
    page.write(given, "placement", result, text(result), PAGE)
    return int(not all(holds for *_, holds in verdicts(rows)))


if __name__ == "__main__":
    raise SystemExit(main())
