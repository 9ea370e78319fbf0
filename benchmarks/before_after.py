"""Claim: a change makes requests to a tiny model, or another one, no slower.

    python benchmarks/before_after.py REVISION           # the working tree beside that commit
    python benchmarks/before_after.py REVISION --rounds 20 --seconds 3
    python benchmarks/before_after.py HEAD --after build/accelerated  # that wheel beside the source

Both servers run at the same time and are loaded in turn, a few seconds each, so that a machine that others
use slows both alike. A cell is a transport with a number of connections; its figures are the medians over the
rounds of the ratio of requests/s, with the middle half of the ratios, and of CPU time per request, with its
microseconds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import forms
import load
import models
import processes
from processes import Launch

ROOT = Path(__file__).resolve().parent.parent
SERVE = "import sys; from salver.cli import main; sys.exit(main())"


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The source of a commit, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="salver-before-") as folder:
        archive = subprocess.run(
            ["git", "archive", revision, "src"], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder, "src")


@contextmanager
def serving(source: Path, model: models.Model, log: Path) -> Iterator[tuple[processes.Server, int]]:
    """The server of a folder with the package, with the installed frameworks, and its port."""
    port = processes.free_port()
    argv = [sys.executable, "-c", SERVE, "serve", str(model.path), "--port", str(port), "--threads", "1"]
    launch = Launch(argv, {"PYTHONPATH": str(source)}, log.parent)
    ready = forms.oip(model)["http"]
    assert not isinstance(ready, str)
    with processes.running(launch, log, lambda: forms.is_right(ready, model, port)) as server:
        yield server, port


def quarter(ratios: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, middle, high


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="the commit before")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--seconds", type=int, default=2, help="of load on each server, in each round and cell"
    )
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--model", choices=sorted(models.MODELS), default="tiny")
    parser.add_argument("--after", type=Path, default=ROOT / "src", help="folder with the package")
    given = parser.parse_args()
    models.make()
    model = models.MODELS[given.model]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="salver-logs-")))
        before = stack.enter_context(checkout(given.revision))
        servers = {
            name: stack.enter_context(serving(source, model, folder / f"{name}.log"))
            for name, source in (("before", before), ("after", given.after.resolve()))
        }
        print(f"load average {os.getloadavg()[0]:.1f}; after, as a multiple of before")
        for transport in ("http", "grpc"):
            form = forms.oip(model)[transport]
            assert not isinstance(form, str)
            body = form.encode(model.samples[0])
            for connections in map(int, given.connections.split(",")):
                for _, port in servers.values():
                    load.generate(form, body, port, connections, 1)
                rates: list[float] = []
                costs: list[tuple[float, float]] = []
                for number in range(given.rounds):
                    rate, cost = {}, {}
                    for name, (server, port) in list(servers.items())[:: 1 if number % 2 else -1]:
                        began = server.cpu_seconds()
                        sample = load.generate(form, body, port, connections, given.seconds)
                        rate[name] = sample.rate
                        cost[name] = (server.cpu_seconds() - began) / sample.requests
                    rates.append(rate["after"] / rate["before"])
                    costs.append((cost["before"], cost["after"]))
                low, middle, high = quarter(rates)
                cpu = statistics.median(after / before for before, after in costs)
                least = " -> ".join(f"{min(each) * 1e6:.1f}" for each in zip(*costs, strict=True))
                told = f"requests/s {middle:.3f} ({low:.3f} to {high:.3f})  CPU {cpu:.3f} (least: {least} µs)"
                print(f"{transport} {connections:>3}  {told}", flush=True)


if __name__ == "__main__":
    main()
