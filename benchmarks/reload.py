"""Claim: a new version takes over without one failed request and without a latency step.

    python benchmarks/reload.py [--seconds 5] [--rate 200] [--model medium]

A fixed rate of requests (latency counted from the scheduled time) on a repository with one version;
then the next version appears on disk; the load goes on until it answers, and as long again after.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import forms
import host
import models
import numpy as np
import processes
import throughput
from models import Model

SALVER = str(Path(sys.executable).with_name("salver"))


def is_up(model: Model, port: int) -> bool:
    return forms.is_right(forms.oip_json(model), model, port)


def add_version(repository: Path, model: Model, version: str) -> None:
    """As a careful publisher does: written beside, then moved into place."""
    part = repository.parent / f"part-{version}"
    part.mkdir()
    shutil.copy(model.path, part / "model.onnx")
    part.rename(repository / model.name / version)


class Connection:
    """A kept HTTP/1.1 connection, as thin as can be: the generator shares the machine with the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes) -> str | None:
        """The version that answered, or None for anything but a good answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r", 1)[0])
        body = await self._reader.readexactly(length)
        return json.loads(body)["model_version"] if head.startswith(b"HTTP/1.1 200") else None


class Load:
    """Requests at fixed times over a few connections; what came of each."""

    def __init__(self, request: bytes, rate: float) -> None:
        self._request, self._rate, self._sent = request, rate, 0
        self._origin = time.perf_counter()
        self.got: list[tuple[float, float, str | None]] = []  # scheduled, latency from then, version
        self.took_over = asyncio.Event()
        self.is_over = False

    def now(self) -> float:
        return time.perf_counter() - self._origin

    async def work(self, port: int) -> None:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        while not self.is_over:
            at = self._sent / self._rate
            self._sent += 1
            await asyncio.sleep(max(0.0, at - self.now()))
            version = None
            try:
                version = await asyncio.wait_for(connection.ask(self._request), 10)
            except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
                connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
            self.got.append((at, self.now() - at, version))
            if version == "2":
                self.took_over.set()


async def drive(port: int, model: Model, repository: Path, given: argparse.Namespace) -> tuple[Load, float]:
    """The load, and when the second version was put in place."""
    form = forms.oip_json(model)
    body = form.encode(model.samples[0])
    head = f"POST {form.path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    load = Load(head.encode() + body, given.rate)
    async with asyncio.TaskGroup() as group:
        for _ in range(given.connections):
            group.create_task(load.work(port))
        await asyncio.sleep(given.seconds)
        published = load.now()
        await asyncio.to_thread(add_version, repository, model, "2")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(load.took_over.wait(), 30)
        await asyncio.sleep(given.seconds)
        load.is_over = True
    return load, published


def summary(got: list[tuple[float, float, str | None]], published: float) -> dict[str, Any]:
    """Latencies before, from the publication until the takeover, and after."""
    took_over = min((at + spent for at, spent, version in got if version == "2"), default=float("inf"))
    spells = {
        "before": (0.5, published),
        "during": (published, took_over),
        "after": (took_over, float("inf")),
    }
    rows = {}
    for name, (start, end) in spells.items():
        spent = np.array([latency for at, latency, _ in got if start <= at < end]) * 1e3
        if len(spent):
            p50, p95, worst = (round(float(q), 3) for q in np.percentile(spent, (50, 95, 100)))
            rows[name] = {"requests": len(spent), "p50_ms": p50, "p95_ms": p95, "max_ms": worst}
    return {
        "failed": sum(version is None for _, _, version in got),
        "took_over_after_s": round(took_over - published, 2) if took_over < float("inf") else None,
        "spells": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5, help="before and after the change")
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--model", default="medium", choices=sorted(models.MODELS))
    given = parser.parse_args()
    models.make()
    model = models.MODELS[given.model]
    with tempfile.TemporaryDirectory(prefix="salver-bench-") as folder:
        repository = Path(folder) / "repository"
        (repository / model.name).mkdir(parents=True)
        add_version(repository, model, "1")
        port = processes.free_port()
        argv = [
            SALVER,
            "serve",
            str(repository),
            "--port",
            str(port),
            "--threads",
            "1",
            "--poll-seconds",
            "0.5",
        ]
        launch = processes.Launch(argv, cwd=Path(folder))
        with processes.running(launch, throughput.LOGS / "reload.log", lambda: is_up(model, port), 30):
            load, published = asyncio.run(drive(port, model, repository, given))
    result = summary(load.got, published)
    print("| | requests | p50 ms | p95 ms | max ms |\n|---|---:|---:|---:|---:|")
    for name, row in result["spells"].items():
        print(f"| {name} | {' | '.join(str(value) for value in row.values())} |")
    took, failed = result["took_over_after_s"], result["failed"]
    print(f"version 2 answered {took} s after it lay there; {failed} requests failed")
    throughput.RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"host": host.facts(), "model": model.name, "rate": given.rate, **result}, indent=1)
    (throughput.RESULTS / "reload.json").write_text(text + "\n")
    return 0 if not failed and took is not None else 1


if __name__ == "__main__":
    sys.exit(main())
