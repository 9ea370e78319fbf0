"""Claim: a split and its exposure log take at most 5 % of the requests per second of a tiny model.

    python benchmarks/split_overhead.py [--rounds 100] [--connections 16,64] [--publish]
    python benchmarks/split_overhead.py --alone                       # half a minute, as `make bench` does
    python benchmarks/split_overhead.py units [--units 10000000]      # memory and ledger, a minute

Twice, since the effect is smaller than the noise of most machines:

- *By itself* (``split_steps.py``): the door with a model that costs nothing, in one process, divided by the
  CPU time of a request in ``throughput.py``'s published run. Of units that were seen before, of a mix in
  which every fifth request comes from one that never was, and of such units alone.
- *In a server* of two versions of one model, which changes over every tenth of a second, in an order drawn
  anew for each round: no release (``none``, and ``again``, whose difference from it is noise); one whose
  canary has so small a share that it meets nobody (``log``); one that meets a quarter of the units
  (``quarter``: what it takes more is the price of two batches in the place of one). Every request names one
  of a thousand users in a header, or one that nobody has seen. Ratios are of the process's CPU time a
  request, over all turns.
"""

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import host
import load
import models
import page
import split_steps
from models import MODELS, ROOT
from processes import Launch, free_port, running

PAGE = ROOT / "docs" / "explanation" / "split-benchmarks.md"
MODEL = MODELS["tiny"]
#: The canary's share. Where it is 0, units are not logged, as there is nothing to compare.
VARIANTS = {"none": None, "again": None, "log": 1e-9, "quarter": 0.25}
TURN_S = 0.1
WARM = 10  # rounds that do not count
MOST = 0.05
EYES = {"split": "split and logged", "judged": "judged by the default policy, too"}
_LUA = """
local file = io.open("%(body)s", "rb")
local body = file:read("*a")
file:close()
local asked, at = {}, 0
request = function()
  at = at + 1
  local user = at
  if %(users)d > 0 then
    user = at %% %(users)d
    asked[user] = asked[user] or wrk.format("POST", nil, {["x-user-id"] = "user-" .. user}, body)
    return asked[user]
  end
  return wrk.format("POST", nil, {["x-user-id"] = "guest-" .. at}, body)
end
"""


class Counter:
    """Requests that were served well."""

    def __init__(self) -> None:
        self.served = 0

    def observe(self, events: Any) -> None:
        self.served += sum([event.outcome == "ok" for event in events if hasattr(event, "outcome")])


async def serve(root: str, port: int, rounds: int, seed: int) -> None:
    """A server of two versions, which takes its turns and writes down what each of them took."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from splitting_server import SplittingServer

    from salver.configuration import ServeConfig
    from salver.features.releases.experiments.collector import Collector
    from salver.transport.server import FrontConfig
    from salver.words.releases import Split

    chance, turns = random.Random(seed), []
    async with (
        split_steps.kept() as ledger,
        SplittingServer(ServeConfig(paths=(root,), front=FrontConfig(port=port))) as server,
    ):
        collector, counter = Collector(ledger.pending, time.time), Counter()
        collector.follow("r0")
        server.kernel.bus.join(collector)
        server.kernel.bus.join(counter)
        await asyncio.to_thread(Path(root, f"ready-{port}").touch)
        router, tables = server.splits.router, {}
        for name, weight in VARIANTS.items():
            router.replace([] if weight is None else [Split("r0", "tiny", "2", "1", weight, "bench")])
            tables[name] = dict(vars(router))
        for number in range(rounds + WARM):
            for name in chance.sample(list(VARIANTS), len(VARIANTS)):
                vars(router).update(tables[name])  # with what it knows of units
                server.kernel.bus.flush()
                cpu, began, served = time.process_time(), time.monotonic(), counter.served
                await asyncio.sleep(TURN_S)
                server.kernel.bus.flush()
                collector.flush()
                count = counter.served - served
                if number >= WARM:
                    turns.append((name, count, time.monotonic() - began, time.process_time() - cpu))
            await ledger.keep(collector)  # as rarely as in earnest; split_steps.py tells its cost
    print(json.dumps(turns))


def repository(folder: Path) -> Path:
    models.make()
    for version in "12":
        (folder / "tiny" / version).mkdir(parents=True)
        shutil.copy(MODEL.path, folder / "tiny" / version / "model.onnx")
    (folder / "tiny" / "salver.toml").write_text("[versions]\nall = true\n")
    return folder


def drive(
    root: Path, connections: int, users: int, given: argparse.Namespace
) -> dict[str, list[list[float]]]:
    """Requests, seconds and CPU seconds of each turn, by variant.

    Args:
        users: That come again and again; 0 = nobody ever does.
    """
    port = free_port()
    row = MODEL.samples[0][0].tolist()
    body = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": row}]}
    argv = [sys.executable, __file__, "serve", str(root), str(port), str(given.rounds), str(given.seed)]
    launch = Launch(argv, {"PYTHONPATH": str(ROOT / "src")})
    with tempfile.TemporaryDirectory(prefix="salver-bench-") as folder:
        (Path(folder) / "body").write_text(json.dumps(body))
        script = Path(folder) / "load.lua"
        script.write_text(_LUA % {"body": Path(folder) / "body", "users": users} + load.DONE)
        with running(launch, root / "log", (root / f"ready-{port}").exists) as server:
            seconds = int((given.rounds + WARM) * len(VARIANTS) * TURN_S * 1.5) + 3
            load.wrk(script, f"http://127.0.0.1:{port}/v2/models/tiny/infer", connections, seconds)
            server.process.wait(60)
            told = next(line for line in server.tail(50).splitlines() if line.startswith("[["))
    turns: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    for name, *turn in json.loads(told):
        turns[name].append(turn)
    return turns


def summary(turns: Mapping[str, Any]) -> dict[str, Any]:
    """Of all turns together, by connections and users, and by variant. Pure."""
    found: dict[str, Any] = {}
    for load_, cells in turns.items():
        found[load_] = {}
        for name, rounds in cells.items():
            requests, seconds, cpu = map(sum, zip(*rounds, strict=True))
            found[load_][name] = {"rate": requests / seconds, "cpu_us": cpu * 1e6 / requests}
        for cell in found[load_].values():
            cell["ratio"] = cell["cpu_us"] / found[load_]["none"]["cpu_us"]
    return found


def published() -> dict[str, float]:
    """CPU microseconds a request of the tiny model, by connections, as published."""
    cells = json.loads((page.RESULTS / "throughput.json").read_text())["cells"]
    return {
        str(cell["connections"]): cell["systems"]["salver"]["cpu_s_per_1000"] * 1e3
        for cell in cells
        if (cell["model"], cell["transport"]) == ("tiny", "http")
    }


def text(result: Mapping[str, Any]) -> str:
    """Markdown. Pure."""
    lines = [
        page.provenance(result),
        "",
        "| units | of the release is | CPU µs | of a request at 1, 16 and 64 connections |",
        "|---|---|---|---|",
    ]
    whole, verdicts = result["published"], []
    for kind, by_eyes in result["steps"].items():
        for eyes, micros in by_eyes.items():
            shares = {connections: micros / whole[connections] for connections in ("1", "16", "64")}
            told = ", ".join(f"{share:.1%}" for share in shares.values())
            lines.append(f"| {kind} | {EYES[eyes]} | {micros:.2f} | {told} |")
            if eyes == "split":
                claim = f"split and exposure log, units {kind}: of a request's CPU time"
                verdicts += [
                    (
                        f"{claim}, {connections} connections",
                        f"{MOST:.0%} at most",
                        f"{share:.1%}",
                        share <= MOST,
                    )
                    for connections, share in shares.items()
                ]
    if result["summary"]:
        noise = max(abs(cells["again"]["ratio"] - 1) for cells in result["summary"].values())
        lines += [
            "",
            f"In a server, where two turns without a release differ by up to {noise:.1%}:",
            "",
            "| connections | units | release | requests/s | CPU µs a request | ratio |",
            "|---|---|---|---|---|---|",
        ]
    for load_, cells in result["summary"].items():
        for name, cell in cells.items():
            figures = f"{cell['rate']:.0f} | {cell['cpu_us']:.1f} | {cell['ratio']:.3f}"
            lines.append(f"| {load_.replace(' ', ' | ')} | {name} | {figures} |")
    if (told := result["units"]) is not None:
        lines += [
            "",
            "| units, each once | CPU µs each | memory | ledger | read back in | not counted as new |",
            "|---|---|---|---|---|---|",
            f"| {told['units']:,} | {told['us_each']:.2f} | {told['grown_mb']:.0f} MB "
            f"| {told['ledger_mb']:.0f} MB | {told['back_s']:.1f} s | {told['lost']:.4%} |",
        ]
    return "\n".join([*lines, "", *page.targets(verdicts)])


async def units(count: int) -> dict[str, Any]:
    """Feed a collector with so many units, each once, write them down, and see what it takes."""
    from salver.features.releases.experiments.collector import Collector
    from salver.words.events import Served
    from salver.words.messages import Timing
    from salver.words.releases import Arm, Assignment

    now, timing, where = [0.0], Timing(), Assignment("r0", Arm.STABLE, "1", "hash", 0.25, 0)
    async with split_steps.kept() as ledger:
        collector = Collector(ledger.pending, lambda: now[0])
        collector.follow("r0")
        before = _peak_kib()
        spent = 0.0
        for start in range(0, count, 256):
            events = [
                Served(
                    "m", "1", "oip-http", "ok", 0.001, timing,
                    assignment=where, unit=f"user-{n}",
                )
                for n in range(start, min(start + 256, count))
            ]  # fmt: skip
            began = time.process_time()
            collector.observe(events)
            await ledger.keep(collector)
            spent += time.process_time() - began
            now[0] += 0.01
        collector.flush()
        await ledger.keep(collector)
        grown = _peak_kib() - before
        began = time.monotonic()
        known = await ledger.met()
        collector = Collector(ledger.pending, time.time)
        collector.follow("r0", memory=collector.remembered(known))
        return {
            "units": count,
            "us_each": round(spent / count * 1e6, 2),
            "grown_mb": round(grown / 1024, 1),
            "ledger_mb": round(ledger.bytes / 1e6, 1),
            "back_s": round(time.monotonic() - began, 1),
            "lost": round(1 - len(set(known.tolist())) / count, 6),
        }


def _peak_kib() -> int:
    """The most memory that this process has had; ``ru_maxrss`` has its parent's, before it was another."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def counted() -> dict[str, Any]:
    """What :func:`units` says, in a process of its own, whose memory is nobody else's."""
    said = subprocess.run([sys.executable, __file__, "units"], check=True, capture_output=True, text=True)
    return dict(json.loads(said.stdout))


def main() -> int:
    if sys.argv[1:2] == ["serve"]:
        from uvloop import run

        root, port, rounds, seed = sys.argv[2:]
        run(serve(root, int(port), int(rounds), int(seed)))
        return 0
    if sys.argv[1:2] == ["units"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--units", type=int, default=10_000_000)
        print(json.dumps(asyncio.run(units(parser.parse_args(sys.argv[2:]).units))))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument(
        "--connections", type=lambda said: [int(n) for n in said.split(",")], default=[16, 64]
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="without a server")
    page.add_arguments(parser, "split")
    given = parser.parse_args()
    quiet, turns, alone = host.Quiet(), {}, split_steps.steps()
    for connections in [] if given.alone else given.connections:
        for kind, users in (("known", split_steps.USERS), ("new", 0)):
            with page.scratch("split") as folder:
                turns[f"{connections} {kind}"] = drive(repository(folder), connections, users, given)
    result = {
        "host": host.facts(),
        "noise": quiet.verdict(),
        "published": published(),
        "steps": alone,
        "rounds": given.rounds,
        "summary": summary(turns),
        "units": None if given.alone else counted(),
    }
    page.write(given, "split", result, text(result), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
