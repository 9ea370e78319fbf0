"""Does the server stay well for as long as it runs?

Mixed load (JSON, binary and gRPC, open loop) while versions change every few seconds and a host
process is killed again and again. Held to: not one failed request that was not meant to fail, memory of
the whole process tree flat after the warm-up (a straight line fitted to it), no descriptor leaked.

    python benchmarks/soak.py                 # ten minutes
    python benchmarks/soak.py --seconds 30
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc.aio as triton
from rich.console import Console
from rich.table import Table

from salver.client import Client
from salver.client.driving import drive
from salver.client.http import Http
from salver.client.load import Tally, schedule, summarise
from salver.testing.process import ServerProcess
from salver.words.errors import SalverError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from zoo import infer_body, moody_body, write_constant, write_identity, write_moody

WARM_UP_SHARE = 0.3
Send = Callable[[], Awaitable[None]]


class Wrong(SalverError):
    """An answer that should not have been."""


def senders(server: ServerProcess, rpc: triton.InferenceServerClient) -> dict[str, Send]:
    """One request of each kind; raises if its answer is not exactly right."""
    http, client = Http(server.url), Client(server.url)
    random = np.random.default_rng(0)
    plain = http.request("POST", "/v2/models/constant/infer", json.dumps(infer_body()).encode())
    moody = http.request("POST", "/v2/models/moody/infer", json.dumps(moody_body("ok")).encode())

    async def as_json() -> None:
        reply = await http.send(plain)
        document = json.loads(reply.body)
        if reply.status != 200 or document["outputs"][0]["data"] != [float(document["model_version"])]:
            raise Wrong(f"{reply.status}: {document}")

    async def as_binary() -> None:
        values = random.standard_normal((int(random.integers(1, 9)), 300)).astype(np.float32)
        answer = await client.infer("identity_fp32", {"x": values})
        if not np.array_equal(answer["y"], values):
            raise Wrong("the identity is none")

    async def as_grpc() -> None:
        given = triton.InferInput("x", [2, 16], "FP32")
        given.set_data_from_numpy(np.zeros((2, 16), np.float32))
        result = await rpc.infer("constant", [given])
        version = float(result.get_response().model_version)
        if result.as_numpy("y").tolist() != [[version], [version]]:
            raise Wrong("the answer is not its version's")

    async def of_the_killed() -> None:
        reply = await http.send(moody)
        meant = b"host process" in reply.body or b"maximum queue size" in reply.body
        if reply.status != 200 and not meant:
            raise Wrong(f"{reply.status}: {reply.body[:200]!r}")

    return {"JSON": as_json, "binary": as_binary, "gRPC": as_grpc, "killed host": of_the_killed}


async def change_versions(root: Path, staging: Path, every: float) -> int:
    """A new version every few seconds; the last two stay on disk."""
    version = 1
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(every)
            version += 1
            await asyncio.to_thread(write_constant, staging, version)
            (staging / "constant" / str(version)).rename(root / "constant" / str(version))
            shutil.rmtree(root / "constant" / str(version - 2), ignore_errors=True)
    return version - 1


async def kill_hosts(server: ServerProcess, every: float) -> int:
    """SIGKILL to the host of ``moody``, which is asked for its process id first."""
    http, killed = Http(server.url), 0
    ask = http.request("POST", "/v2/models/moody/infer", json.dumps(moody_body("pid")).encode())
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(every)
            reply = await http.send(ask)
            if reply.status == 200:
                os.kill(int(json.loads(reply.body)["outputs"][0]["data"][0]), signal.SIGKILL)
                killed += 1
    return killed


async def watch(server: ServerProcess, samples: list[tuple[float, int, float, int]]) -> None:
    """Time, processes, their MiB, and the main one's descriptors without callers' connections."""
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            processes = len(server.family())
            samples.append(
                (
                    time.monotonic(),
                    processes,
                    server.resident_bytes() / 2**20,
                    server.descriptors() - server.connections(),
                )
            )
            await asyncio.sleep(0.5)


async def run(server: ServerProcess, root: Path, staging: Path, arguments: argparse.Namespace) -> bool:
    """The whole soak; True if all held."""
    rpc = triton.InferenceServerClient(server.address)
    samples: list[tuple[float, int, float, int]] = []
    others = [
        asyncio.create_task(change_versions(root, staging, arguments.every)),
        asyncio.create_task(kill_hosts(server, arguments.every * 1.7)),
        asyncio.create_task(watch(server, samples)),
    ]
    tallies: dict[str, Tally] = {}
    wrong: Counter[str] = Counter()
    async with asyncio.TaskGroup() as group:
        for seed, (name, send) in enumerate(senders(server, rpc).items()):
            due = schedule(arguments.rate, arguments.seconds, "poisson", seed)
            tallies[name] = Tally(len(due), [], [], [])
            told = _telling(send, name, wrong)
            group.create_task(
                drive(
                    told,
                    due,
                    arguments.seconds,
                    32,
                    tallies[name],
                    clock=time.monotonic,
                    sleep=asyncio.sleep,
                )
            )
    for other in others:
        other.cancel()
    versions, kills, _ = await asyncio.gather(*others)
    await rpc.close()
    return report(tallies, wrong, samples, versions, kills, arguments)


def _telling(send: Send, name: str, wrong: Counter[str]) -> Send:
    async def told() -> None:
        try:
            await send()
        except SalverError as error:
            wrong[f"{name}: {error}"] += 1
            raise
        except Exception as error:
            wrong[f"{name}: {type(error).__name__}: {error}"] += 1
            raise Wrong(str(error)) from error

    return told


def drift(samples: list[tuple[float, int, float, int]], column: int) -> tuple[float, float]:
    """Mean, and growth along a straight line after the warm-up, over the samples with all processes up."""
    kept = samples[int(len(samples) * WARM_UP_SHARE) :]
    usual = Counter(s[1] for s in kept).most_common(1)[0][0]
    points = np.array([(s[0], s[column]) for s in kept if s[1] == usual])
    slope = float(np.polyfit(points[:, 0] - points[0, 0], points[:, 1], 1)[0])
    return float(points[:, 1].mean()), slope * float(points[-1, 0] - points[0, 0])


def report(
    tallies: dict[str, Tally],
    wrong: Counter[str],
    samples: list[tuple[float, int, float, int]],
    versions: int,
    kills: int,
    arguments: argparse.Namespace,
) -> bool:
    """Print the tables; True if all held."""
    console = Console()
    table = Table("load", "sent", "failed", "p50 ms", "p99 ms", "max ms", title=f"{arguments.seconds:g} s")
    for name, tally in tallies.items():
        found = summarise(tally, arguments.rate, arguments.seconds)
        times = [f"{ms:.1f}" if ms is not None else "–" for ms in (found.p50_ms, found.p99_ms, found.max_ms)]
        table.add_row(name, str(found.sent), str(found.sent - found.ok), *times)
    console.print(table)
    memory, growth = drift(samples, 2)
    descriptors, more = drift(samples, 3)
    limit = 8 + 0.02 * memory
    verdicts = {
        f"{versions} new versions, {kills} hosts killed": versions > 0 and kills > 0,
        f"{sum(wrong.values())} requests failed that were not meant to": not wrong,
        f"memory {memory:.0f} MiB, {growth:+.1f} MiB after the warm-up (limit {limit:.0f})": growth < limit,
        f"descriptors {descriptors:.0f}, {more:+.1f} after the warm-up (limit 8)": more < 8,
    }
    for text, holds in verdicts.items():
        console.print(f"{'ok  ' if holds else 'FAIL'} {text}", highlight=False)
    for text, times in wrong.most_common(10):
        console.print(f"     {times} × {text}", highlight=False, markup=False)
    return all(verdicts.values())


def main() -> int:
    """Exit status 0 if all held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=50, help="requests a second of each of four kinds")
    parser.add_argument("--every", type=float, default=3, help="seconds between versions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="salver-soak-") as folder:
        root, staging, log = (Path(folder) / name for name in ("repository", "staging", "log"))
        write_constant(root, 1)
        write_identity(root, "FP32")
        write_moody(root)
        options = ["--poll-seconds", "0.5", "--log-level", "warning"]
        with ServerProcess([root], log, options) as server:
            server.wait_ready()
            well = asyncio.run(run(server, root, staging, arguments))
            status = server.stop()
        if status != 0:
            print(f"FAIL the server ended with {status}")
        if not (well and status == 0):
            print(log.read_text()[-3000:])
    return 0 if well and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
