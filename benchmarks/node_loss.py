"""Claim: a cluster that loses a node loses no request, moves no other replica, and keeps its promises.

    make .envs/ray-2.60/requirements.txt
    python benchmarks/node_loss.py                # twenty models, about three minutes
    python benchmarks/node_loss.py --models 4 --seconds 10

Three nodes of Ray on this machine, and models of two replicas each. A node is killed, its raylet and all its
processes at once, under requests that arrive on a clock of their own. Held to: every request is answered,
replicas on the other nodes stay, and lost ones come back there. Of the requests that arrive later than a
period after the loss, 99 % are answered within the objective of their model. The period is that in which a
dead replica is noticed.

Exits with 1 if something is missed.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import openloop
import psutil
from openloop import Floats, Outcome, Question

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from ray_nodes import VARIABLES, RayNodes, ray_nodes
from zoo import infer_body, write_mlp

from salver.features.routing.operations import InstancesView
from salver.testing.process import ServerProcess

REPLICAS = 2
OBJECTIVE_S = 0.5
#: Two health checks of half a second, and the pauses before them.
PERIOD_S = 2.0
#: Load before the loss.
BEFORE_S = 5.0
_PATIENCE_S = 300.0


class Loss(NamedTuple):
    """What became of requests and replicas.

    Attributes:
        latency: Seconds of each request.
        after: Seconds from the loss to the arrival of each request; negative = before it.
        lost: Replicas that were on the node.
        moved: Replicas of other nodes that are not there any more.
        restored: Seconds from the loss until each model had all its replicas on other nodes.
    """

    outcome: Outcome
    after: Floats
    lost: int
    moved: int
    restored: float

    @property
    def failed(self) -> int:
        """Return the number of requests without an answer of status 200."""
        return int(np.count_nonzero(self.outcome.status != 200))

    def in_time(self, first: float, last: float) -> float:
        """Return the share answered within the objective, of the requests from then to then."""
        of = (self.after >= first) & (self.after < last)
        return float(self.outcome.within(OBJECTIVE_S)[of].mean())


def write_models(folder: Path, count: int, more: str = "") -> Sequence[str]:
    """Write small models, with this at the end of their settings, and return their names."""
    names = [f"m{number}" for number in range(count)]
    for name in names:
        write_mlp(folder / name, 1)
        (folder / name / "salver.toml").write_text(f"instances = {{ count = {REPLICAS} }}\n{more}")
    return names


def lose(
    server: ServerProcess, nodes: RayNodes, node: str, names: Sequence[str], rate: float, seconds: float
) -> Loss:
    """Kill a node under so many requests a second for so many seconds; wait until its replicas are back."""

    def urls() -> set[str]:
        views = (server.get(f"/api/v1/models/{name}/instances")[1] for name in names)
        return {
            each.url for view in views for each in msgspec.json.decode(view, type=InstancesView).instances
        }

    body = msgspec.json.encode(infer_body(rows=1))
    questions = [Question(f"/v2/models/{name}/infer", body) for name in names]
    due = openloop.poisson(rate, seconds, np.random.default_rng(1))
    before = urls()
    lost = {url for url in before if url.startswith(f"ray://{node[:12]}/")}
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        load = thread.submit(openloop.run, server.port, due, questions, timeout=60)
        time.sleep(min(BEFORE_S, seconds / 2))
        killed = time.monotonic()
        kill(nodes.raylets[node])
        restored = 0.0
        while time.monotonic() < killed + _PATIENCE_S and not restored:
            time.sleep(0.2)
            now = urls()
            if len(now) >= len(before) and not now & lost:
                restored = time.monotonic() - killed
        outcome = load.result()
    if not restored:
        raise openloop.Failed(f"the replicas are not back: {sorted(urls())}")
    return Loss(outcome, due - (killed - began), len(lost), len(before - lost - urls()), restored)


def kill(raylet: int) -> None:
    """Kill a node; its raylet first, which would tell the others that its actors have died."""
    children = psutil.Process(raylet).children(recursive=True)
    os.kill(raylet, signal.SIGKILL)
    for each in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def main() -> int:
    """Print what became of requests and replicas; 1 where something was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--rate", type=float, default=50, help="requests a second, of all models together")
    parser.add_argument("--seconds", type=float, default=40, help="of load; the node is killed after 5")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp")))
        objective = f'objective = {{ latency_p99 = "{OBJECTIVE_S * 1e3:.0f}ms" }}\n'
        names = write_models(folder / "models", given.models, objective)
        nodes = stack.enter_context(ray_nodes(folder))
        options = ["--engine", f"ray://{nodes.address}"]
        server = ServerProcess([folder / "models"], folder / "log", options, VARIABLES)
        stack.enter_context(server)
        server.wait_ready(_PATIENCE_S)
        loss = lose(server, nodes, list(nodes.raylets)[-1], names, given.rate, given.seconds)
    periods = [loss.in_time(*times) for times in ((-np.inf, 0), (0, PERIOD_S), (PERIOD_S, np.inf))]
    print(
        f"{len(names)} models, {loss.lost} of {REPLICAS * len(names)} replicas lost, "
        f"back after {loss.restored:.1f} s, {loss.moved} others moved\n"
        f"{len(loss.after)} requests, {loss.failed} failed, longest {np.nanmax(loss.outcome.latency):.2f} s\n"
        f"within {OBJECTIVE_S:g} s: before {periods[0]:.2%}, in the first {PERIOD_S:g} s {periods[1]:.2%}, "
        f"then {periods[2]:.2%}"
    )
    return int(loss.failed > 0 or loss.moved > 0 or periods[2] < 0.99)


if __name__ == "__main__":
    raise SystemExit(main())
