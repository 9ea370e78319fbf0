"""Claim: with an instance slow or killed, more is answered in time than behind HAProxy or nginx.

    python benchmarks/balancers.py [--seconds 10] [--rounds 1] [--cases quiet,slow,killed] [--publish]

Three servers with a model that takes 5 ms and answers one request at a time; in front of them Salver,
HAProxy or nginx, in turns, with the configurations in ``data/balancers``. Arrivals are Poisson, at half of
what three servers can do; an answer counts if it came within 50 ms of its scheduled time. In ``slow`` one
server takes 50 ms, in ``killed`` one gets SIGKILL after a third of the time. Each run starts everything
anew, on one machine with the load generator. Needs ``haproxy`` and ``nginx`` in ``PATH``; of Debian's
packages, without installing them:

    apt-get download haproxy nginx liblua5.4-0 && for deb in *.deb; do dpkg -x $deb root; done

Exits with 1 if a balancer answers more in time than Salver in one of the faults.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import host
import numpy as np
import openloop
import page
from models import ROOT
from processes import Launch, Server, free_port, running

SALVER = str(Path(sys.executable).with_name("salver"))
CONFIGURATIONS = Path(__file__).with_name("data") / "balancers"
PAGE = ROOT / "docs" / "explanation" / "balancers.md"
SERVICE_S, SLOWER, DEADLINE_S, SHARE = 0.005, 10, 0.05, 0.5
COUNT = 3
ASKED = openloop.Question(
    "/v2/models/sum/infer",
    json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}).encode(),
    {"content-type": "application/json"},
)
MODEL = """\
import time


class Model:
    inputs = {"x": ("FP32", [-1, 3])}
    outputs = {"sum": ("FP32", [-1])}

    def predict(self, inputs):
        time.sleep(%s)
        return {"sum": inputs["x"].sum(axis=1)}
"""


class Row(NamedTuple):
    """Result of a run: shares of the requests, milliseconds, and microseconds of processor time."""

    in_time: float
    failed: float
    p99_ms: float
    cpu_us: float


def balancer(name: str, port: int, backs: Sequence[int], folder: Path) -> Launch:
    """Return the command of a balancer, whose configuration is written with the ports of this run."""
    file = {"salver": "instances.toml", "haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[name]
    text = (CONFIGURATIONS / file).read_text()
    for standing, real in enumerate((port, *backs), 8000):
        text = text.replace(f"127.0.0.1:{standing}", f"127.0.0.1:{real}")
    target = folder / "sum" / file
    target.parent.mkdir(parents=True)
    target.write_text(text)
    if name == "salver":
        return Launch([SALVER, "serve", str(folder), "--port", str(port)])
    program = str(shutil.which(name))
    if name == "haproxy":
        return Launch([program, "-f", str(target)])
    # Of root, its workers would be a user who may not be there.
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    return Launch([program, "-e", "stderr", "-p", str(folder), "-c", str(target), *user])


def answers(port: int) -> bool:
    """Return whether a request is answered."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("POST", ASKED.path, ASKED.body, dict(ASKED.headers))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


@contextlib.contextmanager
def servers(case: str, folder: Path) -> Iterator[tuple[list[int], list[Server]]]:
    """Start the servers; of ``slow``, the last one is."""
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(COUNT)]
        found = []
        for number, port in enumerate(ports):
            model = folder / f"back{number}" / "sum"
            model.mkdir(parents=True)
            is_slow = case == "slow" and number == COUNT - 1
            (model / "model.py").write_text(MODEL % (SERVICE_S * (SLOWER if is_slow else 1)))
            (model / "salver.toml").write_text("batching.enabled = false\ninstances.count = 1\n")
            launch = Launch([SALVER, "serve", str(model.parent), "--port", str(port)])
            log = folder / f"back{number}.log"
            found.append(stack.enter_context(running(launch, log, lambda port=port: answers(port))))
        yield ports, found


def run(name: str, case: str, seconds: float, seed: int) -> Row:
    """Return the result of one run of one balancer."""
    rate, rng, port = SHARE * COUNT / SERVICE_S, np.random.default_rng(seed), free_port()
    with page.scratch("balancers") as folder, servers(case, folder) as (backs, found):
        launch = balancer(name, port, backs, folder / "front")
        with running(launch, folder / "front.log", lambda: answers(port)) as front:
            openloop.run(port, openloop.poisson(rate / 2, 2.0, rng), [ASKED], connections=256, opened=64)
            due = openloop.poisson(rate, seconds, rng)
            timer = threading.Timer(seconds / 3, os.kill, (found[0].process.pid, signal.SIGKILL))
            if case == "killed":
                timer.start()
            before = front.cpu_seconds()
            got = openloop.run(port, due, [ASKED], connections=256, opened=64)
            spent = front.cpu_seconds() - before
            timer.cancel()
    good = got.status == 200
    return Row(
        float(got.within(DEADLINE_S).mean()),
        float((~good).mean()),
        float(np.nanquantile(got.latency[good], 0.99)) * 1e3,
        spent / len(due) * 1e6,
    )


def table(result: dict[str, Any]) -> str:
    """Return the published part of the page."""
    lines = [
        "| case | balancer | in time | failed | p99 ms | CPU µs a request |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['case']} | {row['balancer']} | {row['in_time']:.2%} | {row['failed']:.2%} "
            f"| {row['p99_ms']:.1f} | {row['cpu_us']:.0f} |"
        )
    facts, settings = result["host"], result["settings"]
    about = (
        f"{facts['cpu']}, {facts['cores']} cores, revision {facts['revision']}, {facts['date']}; "
        f"{settings['seconds']:g} s a run, medians of {settings['rounds']}."
    )
    return "\n".join([*lines, "", about])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cases", type=page.words, default=["quiet", "slow", "killed"])
    page.add_arguments(parser, "balancers")
    given = parser.parse_args()
    if missing := [name for name in ("haproxy", "nginx") if not shutil.which(name)]:
        parser.error(f"{' and '.join(missing)} not found; see --help")
    names, rows, missed = ("salver", "haproxy", "nginx"), [], 0
    for case in given.cases:
        found: dict[str, list[Row]] = {name: [] for name in names}
        for seed in range(given.rounds):
            for name in names:
                found[name].append(run(name, case, given.seconds, seed))
        for name in names:
            middle = Row(*(statistics.median(column) for column in zip(*found[name], strict=True)))
            rows.append({"case": case, "balancer": name, **middle._asdict()})
        own, *others = (row["in_time"] for row in rows[-len(names) :])
        missed += case != "quiet" and own < max(others)
    settings = {"seconds": given.seconds, "rounds": given.rounds}
    result = {"host": host.facts(), "settings": settings, "rows": rows}
    page.write(given, "balancers", result, table(result), PAGE)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
