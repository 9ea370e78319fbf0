"""Claim: a request of a tiny model takes no more work than the committed budget says, component by component.

    python benchmarks/budget.py               # count, and fail where it is more than benchmarks/budget.json
    python benchmarks/budget.py --write       # renew the file: the new numbers are the budget
    python benchmarks/budget.py --functions   # which functions the instructions of each case are in

Counted are the bytecode instructions, the calls of Python functions and those of C functions that one
request takes, because they are the same on every machine and in every run, while times are not. The server
runs in this process without a socket (``in_process.py``): JSON over HTTP/1.1 and gRPC over HTTP/2, one
request by itself and sixteen in one turn of the event loop. Objects are the blocks of memory of a request
while it waits to be run, and of one that is answered until the observers have its events.

An instruction counts for the component of its function, or else of the nearest caller, in :data:`PLACES`.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from types import CodeType, FrameType
from typing import Any

import models
import text_models
from in_process import (
    Callers,
    Clock,
    GraphCallers,
    GrpcCallers,
    HttpCallers,
    Loop,
    TextCallers,
    answered,
    ask,
    good,
    run,
    still_time,
)

FILE = Path(__file__).with_suffix(".json")
#: Folders, files and functions below ``salver/``, with their component. The longest that fits counts.
PLACES = {
    "transport/": "front",
    "transport/asgi.py": "routing",
    "transport/grpc.py": "routing",
    "transport/access_check.py": "routing",
    "transport/calls.py": "routing",
    "dialects/oip/": "routing",
    "dialects/oip/json_codec.py:OpenInferenceHttp.decode": "decode",
    "features/pipelines/forms.py:PipelineJson.decode": "decode",
    "dialects/oip/grpc_codec.py:InferMessages.read": "decode",
    "kernel/serving/": "data plane",
    "kernel/lifecycle/": "data plane",
    "kernel/engine/admission.py": "admission",
    "kernel/engine/": "engine",
    "kernel/engine/thread.py": "run",
    "kernel/engine/pace.py": "run",
    "kernel/engine/request_thread.py": "run",
    "backends/": "run",
    "dialects/oip/json_codec.py:OpenInferenceHttp.encode": "encode",
    "features/pipelines/forms.py:PipelineJson.encode": "encode",
    "dialects/oip/grpc_codec.py:InferMessages.write": "encode",
    "kernel/serving/bus.py": "observers",
    "transport/asgi.py:_tell": "back",
    "transport/grpc.py:_tell": "back",
    "transport/http2.py:Http2.flush": "back",
}
COMPONENTS = tuple(dict.fromkeys(PLACES.values()))
#: What these call is theirs, whatever it is.
_WHOLE = frozenset(("decode", "admission", "run", "encode", "observers", "back"))
CASES = {
    "http 1": (HttpCallers, 1),
    "http 16": (HttpCallers, 16),
    "grpc 1": (GrpcCallers, 1),
    "grpc 16": (GrpcCallers, 16),
    "text 1": (TextCallers, 1),
    "graph 1": (GraphCallers, 1),
}
KINDS = ("instructions", "calls", "calls of C")
Figures = Mapping[str, Any]
#: Turns before anything is counted, and requests that are.
WARM, COUNTED = 100, 96
#: More than the budget by this share is too much; where it is little, by so many.
MARGIN, LEAST = 0.02, {"instructions": 3.0, "objects": 1.5}
ADVICE = """\
A request takes more than the budget. `python benchmarks/budget.py --functions`, here and before it,
shows where. If it is worth that, renew the budget in the same commit: python benchmarks/budget.py --write."""
_SOURCE = str(models.ROOT / "src" / "salver") + os.sep
_OWN = str(Path(__file__).parent) + os.sep
_UNSEEN: Any = object()
CLOCKS: dict[str, Clock] = {}
#: Those of :data:`PLACES` in which something ran.
FOUND: set[str] = set()


class Counts:
    """Work of the code that runs while it is active, by component and by function.

    Attributes:
        of: By kind, and by component.
        functions: Instructions by component and function.
    """

    def __init__(self) -> None:
        self.of = {kind: Counter[str]() for kind in KINDS}
        self.functions: Counter[tuple[str, str]] = Counter()
        self._places: dict[CodeType, str | None] = {}

    def __enter__(self) -> "Counts":
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.setprofile(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count a call, and the instructions of the function that is called."""
        component = self._component(frame)
        if component is None:
            return None
        self.of["calls"][component] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        instructions, functions = self.of["instructions"], self.functions
        key = component, _name(frame.f_code)

        def count(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode":
                instructions[component] += 1
                functions[key] += 1
            return count

        return count

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and (component := self._component(frame)) is not None:
            self.of["calls of C"][component] += 1

    def _component(self, frame: FrameType | None) -> str | None:
        """Return whose work a function does; None = nobody's, such as that of this script."""
        if frame is None or frame.f_code.co_filename.startswith(_OWN):
            return None
        above = self._component(frame.f_back)
        if above in _WHOLE:
            return above
        own = self._places.get(frame.f_code, _UNSEEN)
        if own is _UNSEEN:
            own = self._places[frame.f_code] = place(frame.f_code)
        return own or above


def place(code: CodeType) -> str | None:
    """Return the component that a function belongs to; None = that of its caller."""
    if not code.co_filename.startswith(_SOURCE):
        return None
    name = _name(code)
    part = max((part for part in PLACES if name.startswith(part)), key=len, default="")
    FOUND.add(part)
    return PLACES.get(part)


def _name(code: CodeType) -> str:
    return f"{code.co_filename.removeprefix(_SOURCE)}:{code.co_qualname}"


async def opened() -> tuple[Any, Any]:
    """Return a server of the tiny model that has no port, and what its connections have in common."""
    from salver.app import Server
    from salver.configuration import ServeConfig

    models.make()
    paths = str(models.MODELS["tiny"].path), str(text_models.small()), str(text_models.graph())
    server = Server(ServeConfig(paths=paths, opens_ports=False, control="none", threads=1, instances=1))
    await server.start()
    await server.settled()
    return server, terms_of(server)


def terms_of(server: Any, **front: Any) -> Any:
    """Return what the connections of a port have in common."""
    from salver.transport.server import FrontConfig
    from salver.transport.terms import Terms

    return Terms(server.ports.app(FrontConfig(**front)))


async def warm(server: Any, loop: Loop, callers: Callers) -> None:
    """Ask until all is there that the first requests import or learn; the loop then sets no timers."""
    loop.is_still = False
    await ask(callers, pause_s=0.01)  # methods of gRPC are made on a thread
    for _ in range(WARM):
        await ask(callers)
        server.kernel.bus.flush()
    await asyncio.sleep(0.05)  # the timer of the bus has been
    loop.is_still = True


async def count_case(server: Any, loop: Loop, callers: Callers) -> tuple[Figures, Counts]:
    """Return what a request takes, and in which functions."""
    await warm(server, loop, callers)
    bus, counts = server.kernel.bus, Counts()
    together = [callers.requests() for _ in range(COUNTED // callers.count)]
    before, own = _noted(loop, callers), 0
    for requests in together:
        for clock in CLOCKS.values():
            clock.now += 1e-3  # since the turn before
        with counts:
            own += await ask(callers, requests)
    noted = _noted(loop, callers) - before
    noted["callbacks of the loop"] -= own
    with counts:
        bus.flush()
    noted.update({kind: counts.of[kind].total() for kind in KINDS[1:]})
    figures: dict[str, Any] = {
        "instructions": {name: _each(counts.of["instructions"][name]) for name in COMPONENTS},
        **{name: _each(noted[name]) for name in (*KINDS[1:], *_NOTED)},
    }
    waiting, over = await blocks(bus, callers)
    return figures | {"objects while waiting": waiting, "objects until observed": over}, counts


_NOTED = ("looks at a clock", "writes", "callbacks of the loop")


def _noted(loop: Loop, callers: Callers) -> Counter[str]:
    looks, writes = sum(clock.looks for clock in CLOCKS.values()), sum(wire.writes for wire in callers.wires)
    return Counter(dict(zip(_NOTED, (looks, writes, loop.calls), strict=True)))


def _each(total: int) -> float:
    return round(total / COUNTED, 2)


async def blocks(bus: Any, callers: Callers) -> tuple[float, float]:
    """Return the blocks of memory of each request: while it waits to be run, and when it has its answer.

    Of the answered ones the least of some rounds counts: tables that grow add a few blocks now and then.
    """
    waiting, over = [], []
    for _ in range(15):
        requests, most = callers.requests(), good(callers) + callers.count
        before = sys.getallocatedblocks()
        for receive, data in requests:
            receive(data)
        waiting.append(sys.getallocatedblocks() - before)
        await answered(callers, most)
        over.append(sys.getallocatedblocks() - before)
        bus.flush()
    return round(median_low(waiting) / callers.count, 2), round(min(over) / callers.count, 2)


async def count_all(loop: Loop) -> tuple[dict[str, Figures], dict[str, Counts]]:
    """Return the figures of all cases, and where their instructions are."""
    server, terms = await opened()
    gc.disable()
    figures, counts = {}, {}
    for name, (kind, count) in CASES.items():
        figures[name], counts[name] = await count_case(server, loop, kind(terms, count))
    loop.is_still = False
    await server.stop()
    return figures, counts


# -- the file ------------------------------------------------------------------------------------


def flat(figures: Figures) -> dict[str, float]:
    """Return one number for each name: of the components, of all of them, and the rest. Pure."""
    parts = figures["instructions"]
    whole = {"instructions in all": round(sum(parts.values()), 2)}
    rest = {name: value for name, value in figures.items() if name != "instructions"}
    return {f"instructions, {name}": value for name, value in parts.items()} | whole | rest


def most(name: str, budget: float) -> float:
    """Return how much is within the budget. Pure.

    >>> most("instructions, front", 100), most("instructions, run", 1000), most("writes", 1)
    (103.0, 1020.0, 1.02)
    """
    return budget + max(budget * MARGIN, LEAST.get(name.split()[0].rstrip(","), 0.0))


def exceeded(budget: Mapping[str, Figures], figures: Mapping[str, Figures]) -> list[str]:
    """Return a line for each number that is above the budget. Pure."""
    lines = []
    for case, found in figures.items():
        allowed = flat(budget[case])
        for name, value in flat(found).items():
            if value > most(name, allowed.get(name, 0.0)):
                lines.append(f"{case}: {name}: {value:g}, the budget is {allowed.get(name, 0.0):g}")
    return lines


def table(figures: Mapping[str, Figures]) -> str:
    """Return a Markdown table. Pure."""
    columns = {case: flat(found) for case, found in figures.items()}
    lines = [f"| a request | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in next(iter(columns.values())):
        lines.append(f"| {name} | {' | '.join(f'{column[name]:g}' for column in columns.values())} |")
    return "\n".join(lines)


def functions(counts: Mapping[str, Counts]) -> Iterable[str]:
    """Yield the functions of each case, with their instructions for a request."""
    for case, found in counts.items():
        yield f"{case}:"
        for (component, function), total in found.functions.most_common():
            yield f"{total / COUNTED:8.1f}  {component:12} {function}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="make what is counted the budget")
    parser.add_argument("--functions", action="store_true", help="show the functions of each case")
    parser.add_argument("--file", type=Path, default=FILE, help="the budget (default: %(default)s)")
    given = parser.parse_args(arguments)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    CLOCKS.update(still_time())
    figures, counts = run(count_all)
    if missing := [part for part in PLACES if ":" in part and part not in FOUND]:
        print(f"PLACES names functions that do not run any more: {', '.join(missing)}")
        return 1
    if given.functions:
        print("\n".join(functions(counts)))
        return 0
    if given.write:
        given.file.write_text(json.dumps({"python": version, "requests": figures}, indent=1) + "\n")
    print(table(figures))
    kept = json.loads(given.file.read_text())
    if kept["python"] != version:
        print(f"not compared: the budget was counted with Python {kept['python']}, and this is {version}")
        return 0
    if lines := exceeded(kept["requests"], figures):
        print("", *lines, "", ADVICE, sep="\n")
        return 1
    return 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is in some counts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main(sys.argv[1:]))
