"""What do callers notice of fifty real models in memory for ten, whatever goes wrong?

    python benchmarks/crowd.py [--seconds 600] [--models 50] [--policies value,lru] [--publish]

Poisson arrivals of requests for models by Zipf's law, while versions are updated, a file does not load,
callers give up on loads, host processes are killed, and a model leaks. Each model is first asked once, which
is when its memory is estimated; from then on the memory of the process tree, read each 50 ms, is held to the
budget. At the end only models in memory are asked, which is the quiet that their p99 is compared with. The
same follows with plain LRU. ``--trace`` tells what part of the gap between LRU and Belady the policy closes
(``model_swaps.py`` says where the trace is).

Exits with 1 if a target is missed.
"""

import argparse
import bisect
import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import crowd_models
import host
import model_swaps
import numpy as np
import page
import tritonclient.http as triton
from models import ROOT
from tritonclient.utils import triton_to_np_dtype
from waiting import until

from salver.features.memory.processes import tree, use_of
from salver.machine import resident_bytes
from salver.testing.process import ServerProcess

PAGE = ROOT / "docs" / "how-to" / "memory.md"
CLIENT, LENGTH = triton.InferenceServerClient, "Inference-Header-Content-Length"
ZIPF, CALLERS, MIB = 0.9, 48, 1 << 20
MOST_SLOWER, LEAST_CLOSED, SLOTS = 1.2, 0.4, 4
PATIENCE_S, QUIET_S = 300.0, 60.0
FEW = 20  # requests, of which no p99 is told
#: Programs: a request in a killed host is not run again, since it may have had an effect.
PROGRAMS = ("leaking", "sentences")
LRU = """
import sys
from salver.features.memory import policy
policy.Version.value = property(lambda version: version.last)
policy._ahead = lambda *_: None
from salver.cli import main
sys.exit(main(sys.argv[1:]))
"""


class LruServer(ServerProcess):
    """Server that unloads the model that was asked longest ago, and loads none ahead."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", LRU, *super().command()[1:]]


class Call(NamedTuple):
    """One request; ``problem`` is empty if the answer was right."""

    name: str
    began: float
    ended: float
    status: int
    problem: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def excuse(self) -> str:
        """Why it was to fail; empty = it was not."""
        if self.problem and self.name == "torn" and self.status in (404, 503):
            return "a file that does not load"
        if self.name in PROGRAMS and "host process" in self.problem:
            return "a program whose process was killed"
        return ""


class Look(NamedTuple):
    """Models in memory at a time, and whether one loads."""

    at: float
    resident: frozenset[str]
    is_loading: bool


class Peak(NamedTuple):
    """When most memory was taken: bytes in all and by process, and the figures that the server told last."""

    at: float = 0.0
    bytes: int = 0
    processes: Mapping[int, int] = {}
    memory: Mapping[str, Any] = {}


class Sampler:
    """Memory of a process and all that it started.

    To read a process takes up to 10 ms. So one whose resident set is as it was is read anew only each half
    second, or when a process comes or goes, which changes the others' shares. If one does so meanwhile, all
    are read again: what it shared would count once with it, and again with those that it left.
    """

    def __init__(self, root: int) -> None:
        self.root, self._left = root, 0
        self._known: dict[int, tuple[int, int]] = {}

    def read(self) -> dict[int, int]:
        """Return the proportional set of each process, in bytes."""
        while True:
            found = self._read()
            if tree(self.root) == list(found):
                return found

    def _read(self) -> dict[int, int]:
        now = {pid: resident_bytes(pid) for pid in tree(self.root)}
        if now.keys() != self._known.keys() or not self._left:
            self._known, self._left = {}, 10
        self._left -= 1
        for pid, resident in now.items():
            if self._known.get(pid, (-1,))[0] != resident:
                self._known[pid] = resident, use_of(pid).pss
        return {pid: self._known[pid][1] for pid in now}


class Crowd:
    """Callers of a server, and what happens to it."""

    def __init__(self, server: ServerProcess, root: Path, names: Sequence[str]) -> None:
        self.server, self.root, self.names = server, root, names
        self.draw = random.Random(7)
        self.looks: list[Look] = []
        self.peak = Peak()
        self.events: Counter[str] = Counter()
        self._bodies: dict[str, tuple[bytes, int | None]] = {}
        self._expected: dict[str, list[Any]] = {}
        self._latest: dict[str, Any] = {}  # what the server told of its memory

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Sample memory each 50 ms, and what is in it each 100 ms."""
        is_over, sampler = threading.Event(), Sampler(self.server.pid)

        def measure() -> None:
            while not is_over.wait(0.05):
                found = sampler.read()
                if (total := sum(found.values())) > self.peak.bytes:
                    memory = {key: told for key, told in self._latest.items() if not isinstance(told, list)}
                    self.peak = Peak(time.monotonic(), total, found, memory)

        def look() -> None:
            while not is_over.wait(0.1):
                self.looks.append(self.look())

        with ThreadPoolExecutor(2) as watchers:
            both = [watchers.submit(each) for each in (measure, look)]
            try:
                yield
            finally:
                is_over.set()
        for each in both:
            each.result()

    def memory(self) -> dict[str, Any]:
        self._latest = json.loads(self.server.get("/api/v1/memory")[1])
        return self._latest

    def look(self) -> Look:
        rows = self.memory()["models"]
        resident = frozenset(row["model"] for row in rows if row["place"] == "resident")
        return Look(time.monotonic(), resident - {"torn"}, any(row["place"] == "loading" for row in rows))

    def meet(self, name: str) -> None:
        """Learn what a model takes and answers."""
        inputs = []
        status, body = self.server.get(f"/v2/models/{name}")
        if status != 200:
            raise SystemExit(f"{name} tells no metadata: {body.decode(errors='replace')[:300]}")
        for spec in json.loads(body)["inputs"]:
            values = example(spec)
            given = triton.InferInput(spec["name"], list(values.shape), spec["datatype"])
            given.set_data_from_numpy(values)
            inputs.append(given)
        self._bodies[name] = CLIENT.generate_request_body(inputs)
        if problem := self.ask(name).problem:
            raise SystemExit(f"{name} does not answer: {problem}")

    def know_torn(self) -> None:
        """Ask the torn file what its whole sibling is asked."""
        self._bodies["torn"] = self._bodies["magika"]

    def ask(self, name: str) -> Call:
        """Ask, and compare with the first answer."""
        began = time.monotonic()
        with contextlib.closing(self._begin(name)) as connection:
            reply = connection.getresponse()
            answer = reply.read()
        ended = time.monotonic()
        problem = ""
        if reply.status != 200:
            problem = answer.decode(errors="replace")[:300]
        else:
            size = reply.headers.get(LENGTH)
            result = CLIENT.parse_response_body(answer, header_length=int(size) if size else None)
            arrays = [result.as_numpy(each["name"]) for each in result.get_response()["outputs"]]
            if not all(map(is_same, arrays, self._expected.setdefault(name, arrays))):
                problem = "another answer than before"
        return Call(name, began, ended, reply.status, problem)

    def _begin(self, name: str) -> http.client.HTTPConnection:
        """Send a request on a connection of its own."""
        body, length = self._bodies[name]
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=PATIENCE_S)
        headers = {LENGTH: str(length)} if length else {}
        connection.request("POST", f"/v2/models/{name}/infer", body, headers)
        return connection

    def settle(self) -> None:
        """Wait until nothing comes or goes."""
        until(lambda: all(row["place"] in ("absent", "resident") for row in self.memory()["models"]))

    def send(self, weights: Mapping[str, float], rate: float, seconds: float) -> list[Call]:
        """Send requests at random times to random models; return the calls."""
        names, chances = list(weights), list(weights.values())
        with ThreadPoolExecutor(CALLERS) as pool:
            due = time.monotonic()
            end, calls = due + seconds, []
            while (due := due + self.draw.expovariate(rate)) < end:
                time.sleep(max(0.0, due - time.monotonic()))
                calls.append(pool.submit(self.ask, *self.draw.choices(names, chances)))
        return [call.result() for call in calls]

    def disturb(self, is_over: threading.Event, pause: float) -> None:
        """Update, kill and give up in turn until it is over."""
        for what in itertools.cycle((self.update, self.give_up, self.kill, self.give_up)):
            if is_over.wait(pause):
                return
            if what():
                self.events[what.__name__] += 1

    def update(self) -> bool:
        """Publish a new version of a model."""
        model = self.root / self.draw.choice([name for name in self.names if name != "torn"])
        newest = max(int(each.name) for each in model.iterdir() if each.name.isdigit())
        made = model / f".{newest + 1}"
        shutil.copytree(model / str(newest), made)
        made.rename(model / str(newest + 1))
        return True

    def kill(self) -> bool:
        """Kill a host process."""
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if hosts := [pid for pid in tree(self.server.pid)[1:] if is_host(pid)]:
                os.kill(self.draw.choice(hosts), signal.SIGKILL)
                return True
        return False

    def give_up(self) -> bool:
        """Ask an absent model, and close the connection before the answer can have come."""
        absent = sorted(self._bodies.keys() - self.look().resident)
        if absent:
            self._begin(self.draw.choice(absent)).close()
        return bool(absent)


def example(spec: Mapping[str, Any]) -> Any:
    """Return values for an input."""
    name, datatype, shape = spec["name"], spec["datatype"], spec["shape"]
    if -1 in shape[1:]:
        shape = crowd_models.SHAPES.get(name, [1, crowd_models.WORDS])
    shape = [max(1, size) for size in shape]
    if datatype == "BYTES":
        return np.full(shape, b"import this", object)
    if datatype == "FP32":
        return np.random.default_rng(0).random(shape, "f4")
    value = 16_000 if name == "sr" else 1
    return np.full(shape, value, triton_to_np_dtype(datatype))


def is_host(pid: int) -> bool:
    """Return whether a child of the server is a host: it has shared memory, a fork server has none."""
    return any("memfd" in str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir())


def is_same(one: Any, other: Any) -> bool:
    if one.dtype.kind not in "fc":
        return np.array_equal(one, other)
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-2, atol=1e-3)


def kills() -> int:
    """Return how often the kernel has killed a process of this machine for want of memory."""
    lines = dict(map(str.split, Path("/proc/vmstat").read_text().splitlines()))
    return int(lines.get("oom_kill", 0))


def run(
    policy: str, made: Path, folder: Path, names: Sequence[str], given: argparse.Namespace
) -> dict[str, Any]:
    """Load each model once, send the crowd, and then, as quiet, ask only what is in memory."""
    root, kind = folder / policy / "models", LruServer if policy == "lru" else ServerProcess
    for name in names:
        shutil.copytree(made / name, root / name)
    options = ["--memory", f"{given.memory}MiB", "--poll-seconds", "0.5"]
    seconds, killed = given.seconds, kills()
    with kind([root], folder / policy / "log", options) as server:
        server.wait_ready()
        crowd = Crowd(server, root, names)
        with crowd.watching():
            for name in names:
                if name != "torn":
                    crowd.meet(name)
            crowd.know_torn()
            first, crowd.peak = crowd.peak.bytes, Peak()
            weights = dict(zip(names, np.arange(1, len(names) + 1) ** -ZIPF, strict=True))
            is_over = threading.Event()
            disturber = threading.Thread(target=crowd.disturb, args=(is_over, max(0.5, seconds / 200)))
            disturber.start()
            try:
                calls = crowd.send(weights, given.rate, seconds)
            finally:
                is_over.set()
                disturber.join()
            crowd.settle()
            here = {name: weights[name] for name in crowd.look().resident}
            quiet = []
            if here:
                quiet = crowd.send(here, given.rate, min(QUIET_S, seconds / 4))
        row = {"policy": policy, "first": first, "peak": crowd.peak._asdict(), "oom": kills() - killed}
        return {**row, "events": crowd.events, **told(crowd.memory()), **judged(crowd.looks, calls, quiet)}


def told(memory: Mapping[str, Any]) -> dict[str, Any]:
    rows = memory["models"]
    sums = {key: sum(row[key] for row in rows) for key in ("loads", "evictions")}
    sizes = {row["model"]: row["bytes"] for row in rows}  # of the newest version
    return {**sums, "base": memory["base"], "all": memory["base"] + sum(sizes.values())}


def judged(looks: Sequence[Look], calls: Sequence[Call], quiet: Sequence[Call]) -> dict[str, Any]:
    """Return what callers noticed. Pure."""
    usual: dict[str, list[float]] = {}
    for call in quiet:
        usual.setdefault(call.name, []).append(call.seconds)
    p99 = {name: np.quantile(times, 0.99) for name, times in usual.items() if len(times) >= FEW}
    hits, cold, slowness = [], [], []
    ends = [look.at for look in looks]
    for call in calls:
        if call.problem:
            continue
        first = max(0, bisect.bisect_left(ends, call.began) - 1)
        meanwhile = looks[first : bisect.bisect_left(ends, call.ended) + 1]
        if not all(call.name in look.resident for look in meanwhile):
            cold.append(call.seconds)
            continue
        hits.append(call.seconds)
        if call.name in p99 and any(look.is_loading for look in meanwhile):
            slowness.append(call.seconds / p99[call.name])
    failed = [call for call in (*calls, *quiet) if call.problem]
    return {
        "requests": len(calls) + len(quiet),
        "wrong": Counter(f"{call.name}: {call.problem}" for call in failed if not call.excuse),
        "excused": Counter(call.excuse for call in failed if call.excuse),
        "resident": float(np.mean([len(look.resident) for look in looks])),
        "hit_ratio": len(hits) / max(1, len(hits) + len(cold)),
        "hits": quantiles(hits),
        "cold": quantiles(cold),
        "slowness": quantiles(slowness)[1],
    }


def quantiles(values: Sequence[float]) -> list[float]:
    """Return the median and the 99th percentile."""
    return [float(each) for each in np.quantile(values or [np.nan], (0.5, 0.99))]


def closed(trace: Path | None) -> float | None:
    """Return the part of the gap between LRU and Belady that the policy closes; None = there is no trace."""
    if trace is None:
        return None
    found = model_swaps.read(trace)
    kinds = (model_swaps.served, model_swaps.lru, model_swaps.belady)
    return model_swaps.closed(*(kind(found, SLOTS) for kind in kinds))


def text(result: Mapping[str, Any]) -> str:
    """Return the published part of the page."""
    rows, settings = result["rows"], result["settings"]
    budget = f"{settings['memory']} MiB"
    lines = {
        "models in memory, of all (mean)": lambda row: f"{row['resident']:.1f} of {settings['models']}",
        "MiB of all of them, frameworks included": lambda row: f"{row['all'] / MIB:.0f}",
        "MiB of frameworks and the server": lambda row: f"{row['base'] / MIB:.0f}",
        "largest MiB while each was loaded first": lambda row: f"{row['first'] / MIB:.0f}",
        f"largest MiB from then on, of {budget}": lambda row: f"{row['peak']['bytes'] / MIB:.0f}",
        "processes that the kernel killed": lambda row: str(row["oom"]),
        "updates, killed hosts, callers that gave up": lambda row: ", ".join(
            str(row["events"].get(name, 0)) for name in ("update", "kill", "give_up")
        ),
        "requests": lambda row: str(row["requests"]),
        "failed, as they had to": lambda row: reasons(row["excused"]),
        "failed otherwise": lambda row: reasons(row["wrong"]),
        "hits": lambda row: f"{row['hit_ratio']:.3f}",
        "hits, p50 and p99 ms": lambda row: millis(row["hits"]),
        "their p99 while others load, over the quiet p99": lambda row: f"{row['slowness']:.2f}",
        "cold, p50 and p99 ms": lambda row: millis(row["cold"]),
        "loads, evictions": lambda row: f"{row['loads']}, {row['evictions']}",
    }
    return "\n".join(
        [
            f"{settings['models']} models, {settings['seconds']:g} s, {settings['rate']:g} requests/s.",
            "",
            "| | " + " | ".join(row["policy"] for row in rows) + " |",
            "|---|" + "---:|" * len(rows),
            *(f"| {name} | " + " | ".join(map(tell, rows)) + " |" for name, tell in lines.items()),
            "",
            *page.targets(verdicts(result)),
            "",
            page.provenance(result),
        ]
    )


def millis(times: Sequence[float]) -> str:
    return ", ".join(f"{1000 * each:.0f}" for each in times)


def reasons(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count} {why}" for why, count in Counter(counts).most_common(3)) or "0"


def verdicts(result: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    row, budget = result["rows"][0], result["settings"]["memory"]
    wrong, most = sum(row["wrong"].values()), row["peak"]["bytes"] / MIB
    slow, part = row["slowness"], result["settings"]["closed"]
    found = [
        ("memory after the first loads", f"≤ {budget} MiB", f"{most:.0f} MiB", most <= budget),
        ("processes killed for want of memory", "0", str(row["oom"]), not row["oom"]),
        ("requests that failed and should not have", "0", str(wrong), not wrong),
        ("hits while others load, over quiet", f"≤ {MOST_SLOWER}", f"{slow:.2f}", slow <= MOST_SLOWER),
    ]
    if part is not None:
        claim = "of the gap between LRU and Belady closed on the swap trace"
        found.append((claim, f"≥ {LEAST_CLOSED:.0%}", f"{part:.1%}", part >= LEAST_CLOSED))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--only", type=page.words, help="names of models (default: all)")
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second")
    parser.add_argument("--memory", type=int, default=2800, help="budget in MiB")
    parser.add_argument("--policies", type=page.words, default=["value", "lru"])
    parser.add_argument("--trace", type=Path, help="requests of models, for model_swaps.py")
    parser.add_argument("--made", type=Path, help="folder to keep the models in")
    page.add_arguments(parser, "crowd")
    given = parser.parse_args()
    names = given.only or crowd_models.some(given.models)
    quiet = host.Quiet()
    with page.scratch("crowd") as folder:
        made = given.made or folder / "made"
        crowd_models.write(made, [name for name in names if not (made / name).exists()])
        rows = [run(policy, made, folder, names, given) for policy in given.policies]
    settings = {"seconds": given.seconds, "models": len(names), "rate": given.rate, "memory": given.memory}
    settings["closed"] = closed(given.trace)
    result = {"host": host.facts(), "settings": settings, "noise": quiet.verdict(), "rows": rows}
    page.write(given, "crowd", result, text(result), PAGE)
    return int(not all(holds for *_, holds in verdicts(result)))


if __name__ == "__main__":
    sys.exit(main())
