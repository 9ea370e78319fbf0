"""Claim: a new version takes over without one failed request and without a latency step.

    python benchmarks/reload.py [--seconds 5] [--rate 200] [--model medium]

A fixed rate of requests (latency counted from the scheduled time) on a repository with one version;
then the next version appears on disk; the load goes on until it answers, and as long again after.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import forms
import host
import httpx
import numpy as np
import processes
import throughput

import models
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


async def ask(
    client: httpx.AsyncClient, form: forms.Form, body: bytes, at: float, origin: float
) -> tuple[Any, ...]:
    """(scheduled time, latency from it, version that answered or None)."""
    try:
        reply = await client.post(form.path, content=body, headers=dict(form.headers))
        version = reply.json()["model_version"] if reply.status_code == 200 else None
    except httpx.HTTPError:
        version = None
    return at, time.perf_counter() - origin - at, version


async def drive(
    port: int, model: Model, repository: Path, given: argparse.Namespace
) -> tuple[list[Any], float]:
    """All requests, and when the second version was put in place."""
    form = forms.oip_json(model)
    body = form.encode(model.samples[0])
    limits = httpx.Limits(max_connections=64)
    tasks: list[asyncio.Task[Any]] = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=10) as client:
        origin = time.perf_counter()
        at, published, changed = 0.0, float("inf"), float("inf")
        while at < changed + given.seconds and at < published + 30:
            await asyncio.sleep(max(0.0, at - (time.perf_counter() - origin)))
            tasks.append(asyncio.create_task(ask(client, form, body, at, origin)))
            at += 1 / given.rate
            if at > given.seconds and published == float("inf"):
                published = at
                await asyncio.to_thread(add_version, repository, model, "2")
            if changed == float("inf") and any(t.done() and t.result()[2] == "2" for t in tasks[-50:]):
                changed = at
        return await asyncio.gather(*tasks), published


def summary(got: list[Any], published: float) -> dict[str, Any]:
    """Latencies before, between the publication and the takeover, and after."""
    took_over = min((at for at, _, version in got if version == "2"), default=float("inf"))
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
            got, published = asyncio.run(drive(port, model, repository, given))
    result = summary(got, published)
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
