"""Where do the microseconds of a request of a tiny model go?

    python benchmarks/microseconds.py             # a minute
    python benchmarks/microseconds.py --publish   # and write them to the documentation's page

The server runs in this process without a socket (``in_process.py``). Each step of a request's path is called
by itself, many times, and the best of many rounds counts, so that other programs disturb little; what a
component takes is its step less the steps inside it. No profiler is at work. What a socket takes is in no
figure: a turn of the event loop, reading and writing, some 10 µs for a request that comes by itself.
"""

import argparse
import asyncio
import gc
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import budget
import host
import models
import page
from in_process import RUN_S, Callers, GrpcCallers, Loop, ask, run
from models import ROOT

PAGE = ROOT / "docs" / "explanation" / "speed.md"
ROUNDS, REQUESTS = 300, 64  # of a round
CASES = budget.CASES
WHOLE = "in all"
#: Components of the budget in a step that has another name.
INSIDE = {"connection, in and out": ("front", "back"), "routing, and the rest": ("routing",)}
_now = time.perf_counter


def steady() -> None:
    """Let clocks tell steps, as :func:`in_process.still_time` does, as fast as real ones."""
    for name, step in (("monotonic", 1e-4), ("perf_counter", RUN_S), ("thread_time", RUN_S)):
        setattr(time, name, itertools.count(1000.0, step).__next__)


class Floor:
    """An application that has the answer at once: what connections take alone."""

    def __init__(self, reply: Any) -> None:
        self._reply = reply

    def find_prompt(self, head: Any) -> Callable[[Any], bool]:
        """See :data:`~salver.transport.exchange.PromptFinder`."""
        reply = self._reply

        def grpc(exchange: Any) -> bool:
            exchange.reply_grpc(reply)
            return True

        def http(exchange: Any) -> bool:
            exchange.reply(200, reply.headers, reply.body, "0" * 16)
            return True

        return grpc if isinstance(reply, bytes) else http

    def __call__(self, *_: Any) -> Any:
        raise NotImplementedError


class Path:
    """The steps of a request, over one protocol.

    Args:
        together: Requests that come in one turn of the event loop.
    """

    def __init__(self, server: Any, kind: type[Any], together: int) -> None:
        self._kernel, self._bus = server.kernel, server.kernel.bus
        self._server, self._kind, self._together = server, kind, together
        self._callers = kind(budget.terms_of(server), together)
        lease = self._kernel.models.acquire("tiny", "")
        self._engine = lease.servable.engine
        lease.release()

    async def micros(self) -> dict[str, float]:
        """Return microseconds by component, and of the whole."""
        from salver.transport.terms import Terms
        from salver.words.messages import Call

        engine, door = self._engine, self._kernel.door
        whole, observing = await of_callers(self._server, self._callers, engine)
        codec, body, decode, is_read_before = self._codec()
        request = decode()
        said: list[Any] = []
        await self._of_posts(lambda: engine.post(request, None, lambda answer, _: said.append(answer)))
        response = said[-1]
        reply = codec.encode(request, response)
        callers = self._kind(Terms(Floor(reply)), self._together)
        floor, _ = await of_callers(self._server, callers, engine)
        decoding = await self._of_call(decode)
        encoding = await self._of_call(lambda: codec.encode(request, response))
        call = Call("oip-http", 1000.0, None, "0" * 16)
        plane = await self._of_posts(lambda: door.post(codec, body, "tiny", "", call, _drop))
        if is_read_before:
            plane += decoding
        posted = await self._of_posts(lambda: engine.post(request, None, _drop))
        bound = engine._admission.bind(request)
        binding = await self._of_call(lambda: engine._admission.bind(request))
        inputs = engine._executor.stack.inputs([bound] * self._together)
        running = await self._of_call(lambda: engine._executor.runner.run_inline(inputs)) / self._together
        parts = {
            "connection, in and out": floor,
            "decode": decoding,
            "data plane": plane - decoding - encoding - posted,
            "admission": binding,
            "engine": posted - binding - running,
            "run": running,
            "encode": encoding,
            "observers": observing,
            "routing, and the rest": whole - floor - plane,
        }
        return parts | {WHOLE: sum(parts.values())}

    def _codec(self) -> tuple[Any, Any, Callable[[], Any], bool]:
        """Return the codec, what the data plane is given, what decodes, and whether that comes first."""
        from salver.dialects.oip.grpc_methods import OpenInferenceGrpc
        from salver.dialects.oip.json_codec import OpenInferenceHttp
        from salver.dialects.oip.regions import OipRules
        from salver.encoding.bodies import HttpBody

        if self._kind is GrpcCallers:  # where the message names the model
            codec, message = OpenInferenceGrpc(OipRules()), self._callers.message[5:]
            return codec, codec.read(message), lambda: codec.read(message), True
        json = OpenInferenceHttp()
        body = HttpBody("tiny", "", self._callers.body, {})
        signature = self._engine.signature
        return json, body, lambda: json.decode(body, signature), False

    async def _of_posts(self, post: Callable[[], Any]) -> float:
        """Return microseconds of what answers by a callback, perhaps in the next turn."""
        best = float("inf")
        for _ in range(ROUNDS):
            began = _now()
            for _ in range(REQUESTS // self._together):
                for _ in range(self._together):
                    post()
                if self._together > 1:
                    await asyncio.sleep(0)
            best = min(best, _now() - began)
            self._bus.flush()
        turns = REQUESTS // self._together if self._together > 1 else 0
        return (best - turns * await turn_s()) / REQUESTS * 1e6

    async def _of_call(self, call: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(ROUNDS):
            began = _now()
            for _ in range(REQUESTS):
                call()
            best = min(best, _now() - began)
        return best / REQUESTS * 1e6


async def of_callers(server: Any, callers: Callers, engine: Any, rounds: int = ROUNDS) -> tuple[float, float]:
    """Return microseconds of a request, and beside them what observers take."""
    await budget.warm(server, asyncio.get_running_loop(), callers)
    engine._dispatcher._is_crowded = callers.count > 1
    best = observing = float("inf")
    for _ in range(rounds):
        asked = [callers.requests() for _ in range(REQUESTS // callers.count)]
        turns = 0
        began = _now()
        for requests in asked:
            turns += await ask(callers, requests)
        best = min(best, _now() - began)
        began = _now()
        server.kernel.bus.flush()
        observing = min(observing, _now() - began)
    return (best - turns * await turn_s()) / REQUESTS * 1e6, observing / REQUESTS * 1e6


async def turn_s() -> float:
    """Return the seconds of a turn of the event loop with nothing to do."""
    best = float("inf")
    for _ in range(100):
        began = _now()
        for _ in range(20):
            await asyncio.sleep(0)
        best = min(best, _now() - began)
    return best / 20


def _drop(*_: Any) -> None:
    """Forget an answer."""


async def measure(loop: Loop) -> dict[str, dict[str, float]]:
    """Return microseconds by case and component."""
    server, _ = await budget.opened()
    gc.collect()
    gc.freeze()
    gc.disable()
    found = {name: await Path(server, kind, together).micros() for name, (kind, together) in CASES.items()}
    loop.is_still = False
    await server.stop()
    return found


def text(result: Mapping[str, Any]) -> str:
    """Markdown. Pure."""
    cases, counts = result["micros"], result["instructions"]
    lines = [page.provenance(result), "", f"| µs (instructions) of a request | {' | '.join(cases)} |"]
    lines.append(f"|---|{'---:|' * len(cases)}")
    for name in next(iter(cases.values())):
        cells = []
        for case, found in cases.items():
            within = INSIDE.get(name, (name,))
            count = sum(value for part, value in counts[case].items() if part in within or name == WHOLE)
            cells.append(f"{max(0.0, found[name]):.1f} ({count:,.0f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    if arguments == ["measure"]:  # in a process whose clocks tell no time
        steady()
        print(json.dumps(run(measure)))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    page.add_arguments(parser, "microseconds")
    given = parser.parse_args(arguments)
    models.make()
    quiet = host.Quiet()
    done = subprocess.run(
        [sys.executable, __file__, "measure"], check=True, stdout=subprocess.PIPE, text=True
    )
    kept = json.loads(budget.FILE.read_text())["requests"]
    result = {
        "host": host.facts(),
        "noise": quiet.verdict(),
        "micros": json.loads(done.stdout),
        "instructions": {case: figures["instructions"] for case, figures in kept.items()},
    }
    page.write(given, "microseconds", result, text(result), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
