"""Does the running server have the mean latency that queueing theory gives it?

A server with a model of law a·b + t0 (``law.py``), Poisson arrivals over HTTP from a process of their
own. Two clocks: the server's (arrival to reply, from its statistics) and the caller's (from the
scheduled time: with the generator, the kernel and an idle machine's wake-ups, which no queueing law
knows; about a millisecond each). The exact mean is that of the chain in
``tests/support/exact_batching.py``. How far the arrivals of one short run happen to be from a long
run is known: it is what the simulator, with the server's own batcher, says of the same arrivals
("luck"). A ratio is measured / (exact · luck): the simulated mean as a control variate.

    python benchmarks/theory.py [--seconds 20] [--runner thread process] [--loads 0.1 0.3 0.5 0.7]

Exits with 1 if the server is further than 5 % from the law. Needs a quiet machine: a busy core
is latency, too.
"""

import argparse
import asyncio
import contextlib
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop
from law import IsolatedLawBackend, LawBackend

from salver.app import Server
from salver.client import Client, Unreachable
from salver.client.driving import drive
from salver.client.load import Tally
from salver.configuration import ServeConfig
from salver.features.tuning.simulator import simulate
from salver.testing.process import free_port
from salver.transport.server import FrontConfig
from salver.words.artifacts import Batching

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from exact_batching import drained_queue

A_MS, T0_MS = 6.102, 21.048  # GoogLeNet on a P4, slowed down until a millisecond of HTTP is small
TOLERANCE = 0.05
_BACKENDS = {"thread": LawBackend, "process": IsolatedLawBackend}


async def serve(runner: str, path: str, port: str) -> None:
    """The server's process: up until its input ends."""
    config = ServeConfig((path,), name="law", front=FrontConfig(port=int(port)), control="none", instances=1)
    async with Server(config, {"law": _BACKENDS[runner]()}):
        await asyncio.to_thread(sys.stdin.read)


async def until_ready(url: str) -> None:
    """Returns once the model answers."""
    async with asyncio.timeout(30), Client(url) as client:
        while True:
            with contextlib.suppress(Unreachable):
                if await client.ready("law"):
                    return
            await asyncio.sleep(0.1)


async def served(client: Client) -> tuple[int, int]:
    """Requests that the server has answered, and the nanoseconds from their arrival to their reply."""
    (version,) = (await client.statistics("law"))["model_stats"]
    success = version["inference_stats"]["success"]
    return success["count"], success["ns"]


async def measure(url: str, due: np.ndarray) -> tuple[np.ndarray, float]:
    """Latencies in seconds of requests sent at those times, and their mean by the server's own clock."""
    async with Client(url) as client:
        request = client.infer_request("law", {"x": np.ones((1, 1), "f4")})
        for _ in range(5):
            await client.post(request)
        count, spent = await served(client)
        tally = Tally(len(due))
        await drive(
            lambda: client.post(request),
            due,
            float(due[-1]) + 60,
            256,
            tally,
            clock=time.perf_counter,
            sleep=asyncio.sleep,
        )
        later, total = await served(client)
    if wrong := [outcome for outcome in tally.outcome if outcome != "ok"]:
        raise SystemExit(f"{len(wrong)} requests failed: {wrong[0]}")
    return np.array(tally.latency), (total - spent) / (later - count) / 1e9


def compare(url: str, load: float, seconds: float, seed: int) -> tuple[float, float, float, float]:
    """Means in ms of a run at that load: exact, simulated, at the server, at the caller."""
    rate = load / A_MS * 1e3
    count = round(rate * seconds)
    # A Poisson process given its count: the same law, a less noisy mean.
    due = np.sort(np.random.default_rng(seed).uniform(0, seconds, count))
    exact, _ = drained_queue(A_MS, T0_MS, rate / 1e3)
    simulated = simulate(Batching(), due.tolist(), lambda b: (A_MS * b + T0_MS) / 1e3).latencies.mean() * 1e3
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        measured, at_server = runner.run(measure(url, due))
    return exact, float(simulated), at_server * 1e3, float(measured.mean()) * 1e3


def _precise_loop() -> asyncio.AbstractEventLoop:
    # epoll wakes up to 1 ms late, which would be seen as latency; select() within microseconds.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> int:
    """Table of runners and loads; 1 if one is off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each run")
    parser.add_argument("--runner", nargs="+", choices=sorted(_BACKENDS), default=["thread", "process"])
    parser.add_argument("--loads", nargs="+", type=float, default=[0.1, 0.3, 0.5, 0.7])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:  # as `salver serve`
            loop.run(serve(*options.serve))
        return 0
    is_off = False
    print(f"law {A_MS} b + {T0_MS} ms, {options.seconds:g} s a run; means in ms")
    heads = f"{'server':>8} {'ratio':>6} {'caller':>8} {'ratio':>6}"
    print(f"{'runner':8} {'load':>5} {'exact':>8} {'luck':>6} {heads}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "law.txt"
        path.write_text(f"LAW {A_MS} {T0_MS}")
        for runner in options.runner:
            port = free_port()
            command = [sys.executable, __file__, "--serve", runner, str(path), str(port)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as server:
                assert server.stdin is not None
                url = f"http://127.0.0.1:{port}"
                asyncio.run(until_ready(url))
                for load in options.loads:
                    exact, simulated, server_ms, caller_ms = compare(url, load, options.seconds, options.seed)
                    is_off |= abs(server_ms / simulated - 1) > TOLERANCE
                    print(
                        f"{runner:8} {load:5.2f} {exact:8.3f} {simulated / exact:6.3f} {server_ms:8.3f} "
                        f"{server_ms / simulated:6.3f} {caller_ms:8.3f} {caller_ms / simulated:6.3f}",
                        flush=True,
                    )
                server.stdin.close()
    return int(is_off)


if __name__ == "__main__":
    sys.exit(main())
