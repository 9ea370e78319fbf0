"""Does continuous batching give what its formula promises, with steps that stay even?

* ratio: tokens per second of continuous over static batches, in one server over HTTP, of answers of
  geometric lengths and steps of k sequences that take a·k + t0 (asleep). Static: as many callers as slots,
  and the next ones when all have their answers. Target: within 3 % of what these lengths give on the
  law itself; for ever more of them that is (a·B + t0·H_B) / (a·B + t0).
* peer: the continuous rate as a share of B / (a·B + t0), of LitServe's continuous batching.
* gap: between the ends of two steps while prompts of 50 to 400 tokens arrive beside eight long answers,
  and before any arrive. Target: p99 at most 1.5 times the median. In this process.
* server: tokens per second of real networks (GRU, random weights, ONNX Runtime), beside the bare loop.

Other programs only ever slow a run down. So each is repeated, and the least disturbed one counts: of
rates the highest, of gaps the one with the evenest steps *before* prompts arrive.

    python benchmarks/continuous.py [--only ratio,peer,gap,server] [--publish]
"""

import argparse
import asyncio
import contextlib
import functools
import importlib.util
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import host
import numpy as np
import page
import processes
from models import ROOT
from systems import HERE, python_of

from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import LoadOptions, StepModel
from salver.backends.stateful import StatefulSteps
from salver.kernel.engine.stepper import StepEngine
from salver.kernel.engine.transcript import ByteVocabulary
from salver.testing.process import ServerProcess
from salver.words.artifacts import Manifest, ModelConfig, Steps
from salver.words.events import StepRan
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import Array, tensor

PAGE = ROOT / "docs" / "explanation" / "continuous-batching.md"
LAWS = ((0.0, 4e-3, 8), (0.0, 4e-3, 16), (0.1e-3, 3e-3, 16), (0.5e-3, 1e-3, 8))
MEAN = 40  # tokens of an answer
NETWORKS = {"small": 96, "large": 1024}  # units of the GRU: 0.1 and 4 million weights
LONG = 100_000  # tokens of the answers beside which prompts are read
MODEL = """
import time
import numpy as np
class Model:
    def step(self, slots, tokens):
        time.sleep({a} * len(slots) + {t0})
        return np.ones((len(slots), 256), "f4")
    def release(self, slot):
        pass
"""
CONFIG = '[steps]\nvocabulary = "bytes"\nmax_sequences = {slots}\nmax_context = 4096\n'


class Law:
    """Steps of k sequences take a·k + t0, chunks p for each token; in seconds, asleep."""

    def __init__(self, a: float, t0: float, p: float) -> None:
        self.a, self.t0, self.p = a, t0, p

    def prefill(self, slot: int, tokens: Array) -> Array:
        time.sleep(self.p * len(tokens))
        return np.ones(256, "f4")

    def step(self, slots: Array, tokens: Array) -> Array:
        time.sleep(self.a * len(slots) + self.t0)
        return np.ones((len(slots), 256), "f4")

    def release(self, slot: int) -> None:
        pass

    def close(self) -> None:
        pass


class Callers:
    """Threads that ask for answers of so many tokens each, and note when how many tokens came."""

    def __init__(self, port: int, path: str, lengths: Sequence[int]) -> None:
        self._address = ("127.0.0.1", port)
        self._path = path
        self._lengths = iter(lengths)
        self._lock = threading.Lock()
        self._failed: list[Exception] = []
        self.came: list[tuple[float, int]] = []
        self.ran_out = 0.0

    def run(self, count: int) -> "Callers":
        threads = [threading.Thread(target=self._work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed:
            raise self._failed[0]
        return self

    def rate(self, start: float, end: float) -> float:
        """Tokens per second in that window."""
        return sum(n for at, n in self.came if start < at <= end) / (end - start)

    def _work(self) -> None:
        while True:
            with self._lock:
                length = next(self._lengths, None)
                if length is None:
                    self.ran_out = self.ran_out or time.perf_counter()
                    return
            try:
                self._ask(length)
            except (OSError, RuntimeError) as error:
                self._failed.append(error)
                return

    def _ask(self, length: int) -> None:
        body = json.dumps({"text_input": "a", "max_tokens": length, "temperature": 0}).encode()
        head = f"POST {self._path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += f"content-length: {len(body)}\r\n"
        with socket.create_connection(self._address) as caller:
            caller.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + body)
            reply = last = caller.recv(1 << 16)
            if b" 200 " not in reply[:20]:
                raise RuntimeError(f"refused: {reply!r}")
            while last:
                self.came.append((time.perf_counter(), reply.count(b"data: ")))
                last = caller.recv(1 << 16)
                reply = reply[-5:] + last  # a mark may be cut in two


def lengths_for(slots: int, each: int) -> list[int]:
    lengths: list[int] = np.random.default_rng(2).geometric(1 / MEAN, each * slots).tolist()
    return lengths


def parts(lengths: Sequence[int], slots: int) -> list[Sequence[int]]:
    return [lengths[at : at + slots] for at in range(0, len(lengths), slots)]


def continuous(port: int, path: str, slots: int, lengths: Sequence[int]) -> float:
    """Tokens per second while every slot is wanted by two callers."""
    began = time.perf_counter()
    callers = Callers(port, path, lengths).run(2 * slots)
    if sum(n for _, n in callers.came) != sum(lengths):
        raise RuntimeError("other tokens came than were asked for")
    return callers.rate(began + 0.5, callers.ran_out)


def static(port: int, path: str, slots: int, lengths: Sequence[int]) -> float:
    """Tokens per second of one full batch after another."""
    began = time.perf_counter()
    for part in parts(lengths, slots):
        Callers(port, path, part).run(len(part))
    return sum(lengths) / (time.perf_counter() - began)


def rate(port: int, path: str, callers: int, lengths: Sequence[int]) -> float:
    """Tokens per second of all of them."""
    began = time.perf_counter()
    Callers(port, path, lengths).run(callers)
    return sum(lengths) / (time.perf_counter() - began)


def repository(folder: Path, name: str, source: str, slots: int) -> Path:
    """One of a Python model."""
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.py").write_text(source)
    (folder / name / "salver.toml").write_text(CONFIG.format(slots=slots))
    return folder


def ratios(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    for number, (a, t0, slots) in enumerate(LAWS):
        lengths = lengths_for(slots, given.sequences)
        least = sum(1 / k for k in range(1, slots + 1))
        # What these few lengths give on the law itself: a static batch lasts as its longest answer.
        asleep = sum(t0 * max(part) + a * sum(part) for part in parts(lengths, slots))
        ideal = slots / (a * slots + t0)
        models = repository(folder / str(number), "law", MODEL.format(a=a, t0=t0), slots)
        with ServerProcess([models], folder / f"{number}.log") as server:
            server.wait_ready()
            path = "/v2/models/law/generate_stream"
            tries = [
                [way(server.port, path, slots, lengths) for way in (continuous, static)]
                for _ in range(given.repeats)
            ]
        rates = np.max(tries, axis=0).tolist()  # the least disturbed ones
        yield {
            "kind": "ratio",
            "a_ms": a * 1e3,
            "t0_ms": t0 * 1e3,
            "slots": slots,
            "continuous": round(rates[0], 1),
            "static": round(rates[1], 1),
            "ratio": round(rates[0] / rates[1], 4),
            "exact": round(ideal / (sum(lengths) / asleep), 4),
            "formula": round((a * slots + t0 * least) / (a * slots + t0), 4),
            "of_ideal": round(rates[0] / ideal, 4),
        }


def peers(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """LitServe, on the first law."""
    a, t0, slots = LAWS[0]
    row = {"kind": "peer", "name": "LitServe", "slots": slots, "a_ms": a * 1e3, "t0_ms": t0 * 1e3}
    interpreter = python_of("litserve")
    if not interpreter.exists():
        yield {**row, "reason": "not installed: python benchmarks/peers/environment.py litserve"}
        return
    port = processes.free_port()
    script = HERE / "peers" / "litserve" / "continuous.py"
    launch = processes.Launch([str(interpreter), str(script), *map(str, (port, slots, a, t0))], cwd=folder)

    def is_ready() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    lengths = lengths_for(slots, given.sequences)
    with processes.running(launch, folder / "litserve.log", is_ready):
        static(port, "/predict?stream", slots, lengths[:slots])  # its worker may be up later than its front
        rate = max(continuous(port, "/predict?stream", slots, lengths) for _ in range(given.repeats))
    yield {**row, "continuous": round(rate, 1), "of_ideal": round(rate / (slots / (a * slots + t0)), 4)}


def letters() -> Any:
    spec = importlib.util.spec_from_file_location("letters", ROOT / "examples" / "letters.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def networks(folder: Path) -> Iterator[tuple[str, Path]]:
    made = letters()
    for name, units in NETWORKS.items():
        made.write(made.Letters(units).eval(), folder / name)
        yield name, folder / name


def loaded(models: Path, slots: int) -> StepModel:
    path = models / "letters_onnx" / "1" / "model.onnx"
    found = Manifest(ModelId("m", "1"), path, "onnx", "onnx")
    return StatefulSteps(OnnxBackend().load(found, LoadOptions(1)), "m", slots)


async def ask(engine: StepEngine, prompt: int, answer: int) -> None:
    settings = {"max_tokens": answer, "temperature": 0.0}
    request = InferRequest("m", (tensor("text_input", ["a" * prompt]),), parameters=settings)
    async for _ in engine.stream(request):
        pass


async def gap(name: str, model: StepModel, given: argparse.Namespace) -> dict[str, Any]:
    """Of one model; prompts come about as fast as slots get free."""
    seen: list[StepRan] = []
    config = ModelConfig(steps=Steps("bytes", max_sequences=16, max_context=1 << 20))
    engine = StepEngine(ModelId("m", "1"), model, ByteVocabulary(), config, time.monotonic, seen.append)
    await engine.start()
    random = np.random.default_rng(1)
    tasks = [asyncio.ensure_future(ask(engine, 1, LONG)) for _ in range(8)]
    await asyncio.sleep(0.5)
    start = len(seen)
    await asyncio.sleep(given.seconds / 2)
    middle = len(seen)
    until = time.monotonic() + given.seconds
    while time.monotonic() < until:
        await asyncio.sleep(random.exponential(0.1))
        if not engine.queued:
            tasks.append(asyncio.ensure_future(ask(engine, int(random.integers(50, 400)), 20)))
    figures = {}
    for key, events in (("before", seen[start:middle]), ("with", seen[middle:])):
        gaps = np.array([event.gap for event in events]) * 1e3
        figures[key] = {f"p{q}": round(float(np.percentile(gaps, q)), 3) for q in (50, 99)}
        figures[key]["steps"] = len(gaps)
        figures[key]["prompt_tokens"] = sum(event.prompt_tokens for event in events)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await engine.close()
    return {"kind": "gap", "model": name, **figures}


def gaps(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    models: dict[str, Callable[[], StepModel]] = {}
    for p in (2e-6, 20e-6, 500e-6):
        models[f"law, a 0.1, t₀ 4 ms, {p * 1e6:.0f} µs a prompt token"] = functools.partial(
            Law, 0.1e-3, 4e-3, p
        )
    for name, made in networks(folder):
        models[f"{name} network"] = functools.partial(loaded, made, 16)
    for name, make in models.items():
        rounds = [asyncio.run(gap(name, make(), given)) for _ in range(given.repeats)]
        yield min(rounds, key=lambda row: row["before"]["p99"] / row["before"]["p50"])


def bare(model: StepModel, slots: int, seconds: float = 1.0) -> float:
    """Tokens per second of the model alone, the likeliest ones."""
    tokens, where, steps = np.full(slots, 97), np.arange(slots), 0
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        tokens = model.step(where, tokens).argmax(axis=1)
        steps += 1
    return slots * steps / (time.perf_counter() - began)


def servers(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    for name, models in networks(folder):
        with ServerProcess([models], folder / f"{name}.log") as server:
            server.wait_ready()
            for slots in (1, 4, 16):
                model = loaded(models, slots)
                alone = max(bare(model, slots) for _ in range(given.repeats))
                row: dict[str, Any] = {
                    "kind": "server",
                    "model": name,
                    "callers": slots,
                    "bare": round(alone),
                }
                lengths = [400] * slots * max(2, round(alone / slots / 400))  # about a second's work
                for route in ("generate", "generate_stream"):
                    path = f"/v2/models/letters_onnx/{route}"
                    tries = [rate(server.port, path, slots, lengths) for _ in range(given.repeats)]
                    row[route] = round(max(tries))
                yield row


PARTS = {"ratio": ratios, "peer": peers, "gap": gaps, "server": servers}


def table(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if kind == "ratio":
        lines = [
            "| a, t₀ ms | B | continuous tokens/s | static | ratio | on the law | formula | of B/(aB + t₀) |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        return lines + [
            f"| {r['a_ms']:g}, {r['t0_ms']:g} | {r['slots']} | {r['continuous']:.0f} | {r['static']:.0f} | "
            f"{r['ratio']:.3f} | {r['exact']:.3f} | {r['formula']:.3f} | {r['of_ideal']:.1%} |"
            for r in rows
        ]
    if kind == "peer":
        lines = ["| peer | a, t₀ ms | B | continuous tokens/s | of B/(aB + t₀) |", "|---|---|---:|---:|---:|"]
        return lines + [
            f"| {r['name']} | {r['a_ms']:g}, {r['t0_ms']:g} | {r['slots']} | "
            + (
                f"– ({r['reason']}) | |"
                if "reason" in r
                else f"{r['continuous']:.0f} | {r['of_ideal']:.1%} |"
            )
            for r in rows
        ]
    if kind == "gap":
        lines = [
            "| model | before: p50 / p99 ms | | with prompts: p50 / p99 ms | | prompt tokens/step |",
            "|---|---|---:|---|---:|---:|",
        ]
        for r in rows:
            cells = [
                f"{r[key]['p50']:.2f} / {r[key]['p99']:.2f} | {r[key]['p99'] / r[key]['p50']:.2f} ×"
                for key in ("before", "with")
            ]
            read = r["with"]["prompt_tokens"] / r["with"]["steps"]
            lines.append(f"| {r['model']} | {' | '.join(cells)} | {read:.1f} |")
        return lines
    lines = [
        "| network | callers | bare loop tokens/s | generate | generate_stream |",
        "|---|---:|---:|---:|---:|",
    ]
    for r in rows:
        shares = [f"{r[route]} ({r[route] / r['bare']:.0%})" for route in ("generate", "generate_stream")]
        lines.append(f"| {r['model']} | {r['callers']} | {r['bare']} | {' | '.join(shares)} |")
    return lines


def verdicts(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, bool]]:
    """(claim, required, measured, holds)."""
    for r in rows:
        if r["kind"] == "ratio":
            off = r["ratio"] / r["exact"] - 1
            claim = f"ratio at a {r['a_ms']:g}, t₀ {r['t0_ms']:g}, B {r['slots']}"
            yield claim, "within 3% of the law", f"{off:+.1%}", abs(off) <= 0.03
        if r["kind"] == "gap":
            times = r["with"]["p99"] / r["with"]["p50"]
            yield f"gap, {r['model']}", "p99 ≤ 1.5 × median", f"{times:.2f} ×", times <= 1.5


def text(result: Mapping[str, Any]) -> str:
    lines = [page.provenance(result), ""]
    for kind in PARTS:
        rows = [row for row in result["rows"] if row["kind"] == kind]
        if rows:
            lines += [*table(kind, rows), ""]
    return "\n".join([*lines, *page.targets(verdicts(result["rows"]))])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=page.words, default=[*PARTS], help=f"of {','.join(PARTS)}")
    parser.add_argument("--sequences", type=int, default=15, help="answers a slot, for the ratios")
    parser.add_argument("--repeats", type=int, default=3, help="of everything; the least disturbed counts")
    parser.add_argument("--seconds", type=float, default=8, help="of arriving prompts, for each gap")
    page.add_arguments(parser, "continuous")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives us
    quiet, rows = host.Quiet(), []
    for kind in given.only:
        with page.scratch("continuous") as folder:
            for row in PARTS[kind](given, folder):
                rows.append(row)
                print("\n".join(table(kind, [row])[2:]), flush=True)
    settings = {
        "sequences": given.sequences,
        "repeats": given.repeats,
        "seconds": given.seconds,
        "mean_tokens": MEAN,
    }
    result = {"host": host.facts(), "settings": settings, "noise": quiet.verdict(), "rows": rows}
    page.write(given, "continuous", result, text(result), PAGE)
    return int(not all(holds for *_, holds in verdicts(rows)))


if __name__ == "__main__":
    sys.exit(main())
