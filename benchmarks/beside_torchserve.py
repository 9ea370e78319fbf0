"""Claim: a TorchServe model store is served three times as fast as by TorchServe, in less memory.

    python benchmarks/beside_torchserve.py [--seconds 3] [--rounds 3] [--models noop,tiny] [--publish]

Both servers get the same ``config.properties`` and the same archives, made by ``torch-model-archiver``.
Before the load their answers to the same request are compared byte by byte. Each cell is a model, a number
of workers, a batch size and a number of connections, on a server of its own; systems take turns within a
round, figures are ratios within a round, and their median. Memory is the proportional set size of the whole
process tree after the load. TorchServe needs Java 17.
"""

import argparse
import http.client
import itertools
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import archives
import host
import load
import models
import numpy as np
import page
import processes
from archives import Archive
from forms import Form, Headers
from models import Floats
from peers import environment
from processes import Launch, Server
from systems import python_of

PAGE = models.ROOT / "docs" / "explanation" / "torchserve-benchmarks.md"
PEER = Path(__file__).resolve().parent / "peers" / "torchserve"
SYSTEMS = ("torchserve", "salver")
#: Least multiple of TorchServe's rate, by model.
WANTED = {"noop": 3.0, "tiny": 3.0, "mobilenet": 1.2}
#: Workers, batch size, connections.
CELLS = {
    "noop": ((1, 1, 1), (1, 1, 16), (1, 8, 64), (1, 32, 64), (2, 8, 64), (4, 8, 64)),
    "tiny": ((1, 1, 1), (1, 1, 16), (1, 8, 64), (1, 32, 64), (2, 8, 64), (4, 8, 64)),
    "mobilenet": ((1, 1, 4), (1, 8, 16), (2, 1, 8), (4, 8, 32)),
}
_WAIT_MS = 2


def _launch(system: str, folder: Path) -> Launch:
    """Both in the same words."""
    words = ["--start", "--foreground", "--no-config-snapshots", "--ts-config", "config.properties"]
    if system == "salver":
        return Launch([str(Path(sys.executable).with_name("salver")), "torchserve", *words], cwd=folder)
    own = python_of("torchserve").parent
    words += ["--log-config", str(PEER / "log4j2.xml")]  # it writes several lines a request otherwise
    path = f"{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return Launch([str(own / "torchserve"), *words], {"PATH": path}, folder)


def _ask(archive: Archive, port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": archive.content_type}
        connection.request("POST", f"/predictions/{archive.name}", archive.body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _answers(archive: Archive, port: int) -> bool:
    try:
        return _ask(archive, port)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def memory_mb(server: Server) -> float:
    """Proportional set size of the whole tree, in MB."""
    total = 0
    for pid in server.tree():
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def turn(
    system: str, archive: Archive, cell: tuple[int, int, int], given: argparse.Namespace, store: Path
) -> dict[str, Any]:
    """One cell of one system: figures, and the answer."""
    workers, batch, connections = cell
    port = processes.free_port(5)
    folder = models.CACHE / "logs" / "beside-torchserve" / system
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = {
        "minWorkers": workers,
        "maxWorkers": workers,
        "batchSize": batch,
        "maxBatchDelay": _WAIT_MS,
        "responseTimeout": 60,
    }
    text = archives.properties(port, store, archive.name, settings)
    (folder / "config.properties").write_text(text)
    form = Form(
        "http",
        f"/predictions/{archive.name}",
        lambda row: archive.body,
        _undecoded,
        {"content-type": archive.content_type},
    )
    began = time.monotonic()
    with processes.running(
        _launch(system, folder), folder / "log", lambda: _answers(archive, port), 120, 0.02
    ) as server:
        up = time.monotonic() - began
        _, said = _ask(archive, port)
        load.generate(form, archive.body, port, connections, given.warm_up)
        before = server.cpu_seconds()
        sample = load.generate(form, archive.body, port, connections, given.seconds)
        spent = server.cpu_seconds() - before
        if sample.errors:
            raise load.LoadFailed(f"{system} {archive.name} {cell}: {sample.errors} requests failed")
        return {
            "rate": round(sample.rate, 1),
            "p99_ms": sample.p99_ms and round(sample.p99_ms, 3),
            "p50_ms": round(sample.p50_ms, 3),
            "cpu_s_per_1000": round(spent / sample.requests * 1000, 4),
            "start_s": round(up, 2),
            "memory_mb": round(memory_mb(server), 1),
            "said": said.decode(),
        }


def _undecoded(body: bytes, headers: Headers) -> Floats:
    """Answers are compared as bytes."""
    return np.frombuffer(body, np.uint8).astype(np.float32)


def _cells(given: argparse.Namespace) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for name in given.models:
        yield from itertools.product([name], CELLS[name])


def measure(given: argparse.Namespace, store: Path, made: Mapping[str, Archive]) -> list[dict[str, Any]]:
    """One entry a round: figures by system and cell."""
    rng, rounds = random.Random(given.seed), []
    for number in range(given.rounds):
        got: dict[str, Any] = {}
        for name, cell in _cells(given):
            for system in rng.sample(SYSTEMS, len(SYSTEMS)):
                figures = turn(system, made[name], cell, given, store)
                got[f"{system}/{name}/{'/'.join(map(str, cell))}"] = figures
                print(f"{number + 1}/{given.rounds} {system:10} {name} {cell} {figures}"[:200], flush=True)
        rounds.append(got)
    return rounds


def ratio(rounds: list[dict[str, Any]], cell: str, field: str) -> float | None:
    """Median over the rounds of Salver's figure over TorchServe's."""
    pairs = [(r[f"salver/{cell}"][field], r[f"torchserve/{cell}"][field]) for r in rounds]
    found = [ours / theirs for ours, theirs in pairs if ours and theirs]
    return statistics.median(found) if len(found) == len(rounds) else None


def report(result: Mapping[str, Any]) -> str:
    lines = [
        "| model | workers | batch size | connections | rate, × TorchServe's | wanted | p99 | CPU a request "
        "| time to the first answer | memory | |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    rounds, alike = result["rounds"], 0
    cells = [key.removeprefix("salver/") for key in rounds[0] if key.startswith("salver/")]
    for cell in cells:
        name, *numbers = cell.split("/")
        fields = ("rate", "p99_ms", "cpu_s_per_1000", "start_s", "memory_mb")
        found = [ratio(rounds, cell, field) for field in fields]
        first, *others = ("–" if value is None else f"{value:.2f}" for value in found)
        holds = found[0] is not None and found[0] >= WANTED[name]
        verdict = "pass" if holds and (found[4] or 2) < 1 else "**missed**"
        figures = (name, *numbers, first, f"{WANTED[name]:g}", *others, verdict)
        lines.append(f"| {' | '.join(figures)} |")
        alike += all(r[f"salver/{cell}"]["said"] == r[f"torchserve/{cell}"]["said"] for r in rounds)
    return "\n".join(
        [
            *lines,
            "",
            f"Answers alike, byte for byte, in {alike} of {len(cells)} cells.",
            "",
            page.provenance(result),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=page.words, default=list(CELLS), help=",".join(CELLS))
    parser.add_argument("--seconds", type=int, default=3, help="of load in each cell and round")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    page.add_arguments(parser, "torchserve")
    given = parser.parse_args(argv)
    if missing := [name for name in ("wrk", "java") if not shutil.which(name)]:
        sys.exit(f"{' and '.join(missing)} not found: apt-get install wrk openjdk-17-jre-headless")
    if not environment.make("torchserve"):
        return 1
    quiet = host.Quiet()
    with page.scratch("torchserve") as folder:
        made = archives.build(folder / "store")
        rounds = measure(given, folder / "store", made)
    result = {
        "settings": {"seconds": given.seconds, "rounds": given.rounds, "max_batch_delay_ms": _WAIT_MS},
        "rounds": rounds,
        "host": host.facts(),
        "noise": quiet.verdict(),
    }
    page.write(given, "torchserve", result, report(result), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
