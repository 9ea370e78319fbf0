"""Does a server with several fronts lose only what was in a process that is killed?

Callers with connections to all processes ask a model of which fronts have copies, one that is shared and runs
in a host process, and one whose requests are passed on, while fronts and the host are killed or stopped at
random moments and versions change. Held to: each answer is right; each request that has none was in a process
that was killed meanwhile, by the connection it came on; counters lose no more than what the killed had not
told; afterwards all fronts are back, nothing waits, and every model can be unloaded. At last the home process
is killed: the fronts end.

    python benchmarks/front_kills.py                          # five minutes, four fronts
    python benchmarks/front_kills.py --seconds 20 --fronts 2
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from salver.testing.process import ServerProcess

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from front_callers import connected, fronts_of
from waiting import until
from zoo import mlp_answer, write_constant, write_mlp

#: Callers; each has one connection at a time.
CALLERS = 12
#: Seconds after a kill until its connections have surely ended: a front that is stopped is killed after ten.
SETTLE_S, STOPPED_S = 3.0, 20.0
#: Most events of a front that it had not told, by connection: a few turns of its loop.
UNTOLD = 20
PATIENCE_S = 60.0
MODELS = ("mlp", "hosted", "constant")


class Kill(NamedTuple):
    """A process that was killed, and until when requests may be lost by it."""

    pid: int
    began: float
    until: float


class Run:
    """One run of the load.

    Attributes:
        faults: What went wrong, in words.
    """

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self.faults: list[str] = []
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def call(self, number: int) -> None:
        """Ask one request after the other, until the end."""
        draw = random.Random(number)
        connection, owner = None, 0
        while not self.stop.is_set():
            model = draw.choice(MODELS)
            began = time.monotonic()
            try:
                if connection is None or draw.random() < 0.01:
                    connection, owner = None, 0
                    connection, owner = self.connect()
                fault = ask(connection, model, draw)
            except (OSError, http.client.HTTPException) as error:
                self.lost(model, owner, began, repr(error))
                connection, owner = None, 0
                continue
            with self._lock:
                self.outcomes[model, fault or "ok"] += 1
            if fault and not (model == "hosted" and self.was_hit(began, fronts=False)):
                self.faults.append(f"{model} at {owner}: {fault}")

    def connect(self) -> tuple[http.client.HTTPConnection, int]:
        """Return a connection and the process that has it."""
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=PATIENCE_S)
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()
        port = connection.sock.getsockname()[1]
        for pid in (self.server.pid, *fronts_of(self.server)):
            with contextlib.suppress(FileNotFoundError):  # it has ended
                if port in connected(self.server, pid):
                    return connection, pid
        return connection, 0

    def lost(self, model: str, owner: int, began: float, why: str) -> None:
        """Note a request without an answer."""
        with self._lock:
            self.outcomes[model, "lost"] += 1
        if not self.was_hit(began, owner):
            self.faults.append(f"{model} at {owner}: no answer after {time.monotonic() - began:.2f} s: {why}")

    def was_hit(self, began: float, owner: int = 0, fronts: bool = True) -> bool:
        """Return whether a process (0 = any) was killed since, or shortly before."""
        now = time.monotonic()
        return any(
            kill.began <= now and kill.until >= began and owner in (0, kill.pid) for kill in list(self.kills)
        )

    def kill_one(self) -> None:
        """Kill or stop a process, or change a version."""
        what = self.random.choice(("front", "front", "front", "stop", "host", "host", "version"))
        fronts = fronts_of(self.server)
        hosts = [pid for pid in self.server.family() if pid not in fronts and pid != self.server.pid]
        if what == "version":
            connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=PATIENCE_S)
            began = time.monotonic()
            try:
                connection.request("POST", "/v2/repository/models/constant/load", b"{}")
                if (status := connection.getresponse().status) != 200:
                    self.faults.append(f"a load was answered with {status}")
            except (OSError, http.client.HTTPException) as error:
                self.lost("load", 0, began, repr(error))
            return
        found = hosts if what == "host" else fronts
        if not found:
            return
        pid, now = self.random.choice(found), time.monotonic()
        self.kills.append(Kill(pid, now, now + (STOPPED_S if what == "stop" else SETTLE_S)))
        self.outcomes["", what] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP if what == "stop" else signal.SIGKILL)


def ask(connection: http.client.HTTPConnection, model: str, draw: random.Random) -> str:
    """Ask for a random row; return what is wrong with the answer."""
    row = [round(draw.uniform(-1, 1), 3) for _ in range(16)]
    if model == "constant":
        path, body = "/v1/models/constant:predict", {"instances": [row]}
    else:
        path = f"/v2/models/{model}/infer"
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": row}]}
    connection.request("POST", path, json.dumps(body))
    reply = connection.getresponse()
    said = reply.read()
    if reply.status != 200:
        return f"{reply.status} {said[:200]!r}"
    if model == "constant":
        return "" if json.loads(said)["predictions"] == [[1.0]] else said[:200].decode()
    wanted = mlp_answer(np.array([row], np.float32)).ravel()
    got = json.loads(said)["outputs"][0]["data"]
    return "" if np.allclose(got, wanted, rtol=1e-4, atol=1e-6) else f"{got} for {wanted.tolist()}"


def counted(server: ServerProcess, model: str) -> int:
    """Requests that were answered well, by the server's own count."""
    rows = json.loads(server.get(f"/v2/models/{model}/stats")[1])["model_stats"]
    return sum(row["inference_stats"]["success"]["count"] for row in rows)


def check_end(run: Run, fronts: int) -> None:
    """Note what is not as it should be when all is over."""
    server = run.server
    # A front that was stopped is killed some seconds later, with what it has by then.
    time.sleep(max(0.0, max((kill.until for kill in run.kills), default=0.0) - time.monotonic()))
    until(lambda: len(fronts_of(server)) == fronts - 1, server.output)
    until(lambda: f"salver_fronts {fronts:.1f}" in server.get("/metrics")[1].decode(), server.output)
    killed = sum(count for (model, what), count in run.outcomes.items() if not model and what != "host")
    for model in MODELS:
        ok, lost = run.outcomes[model, "ok"], run.outcomes[model, "lost"]
        found = counted(server, model)
        print(f"{model}: {ok} answered, {found} counted, {lost} lost")
        if not ok - killed * CALLERS * UNTOLD <= found <= ok + lost:
            run.faults.append(f"{model}: {ok} answered, {lost} lost, {found} counted")
    page = server.get("/metrics")[1].decode().splitlines()
    run.faults += [
        line for line in page if line.startswith("salver_queue_depth") and not line.endswith(" 0.0")
    ]
    for model in MODELS:
        server.post(f"/v2/repository/models/{model}/unload", {})

    def has_gone() -> bool:
        return all(row.get("state") != "READY" for row in server.post("/v2/repository/index", {})[1])

    until(has_gone, server.output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--fronts", type=int, default=4)
    parser.add_argument("--every", type=float, default=1.5, help="mean seconds between two kills")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        write_mlp(root / "mlp", 1)
        write_mlp(root / "hosted", 1)
        (root / "hosted" / "salver.toml").write_text('instances.runner = "process"')
        write_constant(root, 1)
        options = ["--fronts", str(given.fronts), "--control", "explicit", "--state-dir="]
        options += itertools.chain(*(("--load", model) for model in MODELS))
        with ServerProcess([root], Path(folder) / "log", options) as server:
            server.wait_ready()
            until(lambda: f"salver_fronts {given.fronts:.1f}" in server.get("/metrics")[1].decode())
            run = Run(server, given.seed)
            callers = [threading.Thread(target=run.call, args=(number,)) for number in range(CALLERS)]
            for caller in callers:
                caller.start()
            end = time.monotonic() + given.seconds
            while time.monotonic() < end:
                time.sleep(min(run.random.expovariate(1 / given.every), 10 * given.every))
                run.kill_one()
            run.stop.set()
            for caller in callers:
                caller.join()
            check_end(run, given.fronts)
            fronts = fronts_of(server)
            server.signal(signal.SIGKILL)
            until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in fronts))
            if run.faults:
                print(server.output()[-20_000:])
    print(", ".join(f"{what} {count}" for (model, what), count in sorted(run.outcomes.items()) if not model))
    for fault in run.faults[:50]:
        print("FAULT", fault)
    print(f"{len(run.faults)} faults")
    return bool(run.faults)


if __name__ == "__main__":
    sys.exit(main())
