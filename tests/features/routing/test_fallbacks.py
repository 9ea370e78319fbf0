"""Answers in place of a model that cannot give one."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from waiting import until

from salver.features.routing.fallbacks import FallbackLoader, cause_of
from salver.kernel.serving.capabilities import PLAIN, Capabilities
from salver.testing.process import ServerProcess
from salver.words.artifacts import Fallback, Manifest, ModelConfig
from salver.words.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
)
from salver.words.messages import InferRequest, InferResponse, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

Y = TensorSpec("y", DataType.FP32, (-1, 2))
LABEL = TensorSpec("label", DataType.BYTES, (-1,))
X = Tensor("x", DataType.FP32, np.ones((3, 2), np.float32))


class Model:
    """Servable that raises what a test says."""

    def __init__(self, config: ModelConfig, error: Exception | None, **more: Any) -> None:
        self.manifest = Manifest(
            ModelId("m", more.get("version", "1")), Path(), "onnx", "onnx", config=config
        )
        self.signature = more.get("signature") or Signature(
            (TensorSpec("x", DataType.FP32, (-1, 2)),), (Y, LABEL), True
        )
        self.capabilities: Capabilities = more.get("capabilities") or PLAIN
        self.error = error
        self.is_closed = False

    def guard(self, wrap: Any) -> None:
        self.infer = wrap(self.infer)

    async def infer(self, request: InferRequest, *_: Any) -> InferResponse:
        if self.error is not None:
            raise self.error
        return InferResponse("m", "1", (X,), request.id)

    async def close(self) -> None:
        self.is_closed = True


class Others:
    """Other models of the server; those that are not there fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.first: Any = None

    async def infer(self, request: InferRequest, call: Any) -> InferResponse:
        if request.model == "back":  # in turn, it asks the model that failed
            found: InferResponse = await self.first.infer(msgspec.structs.replace(request, model="m"))
            return found
        self.asked.append((request.model, request.version, call.deadline))
        if request.model == "gone":
            raise NotReady("gone")
        return InferResponse(request.model, "7", (X,), request.id)


class Loaded:
    def __init__(self, chain: list[Fallback], error: Exception | None = None, **more: Any) -> None:
        self.model = Model(ModelConfig(fallbacks=tuple(chain)), error, **more)
        self.others = Others()
        self.others.first = self.model
        self.loader = FallbackLoader(self, self.others, lambda: 100.0, lambda: READY)  # type: ignore[arg-type]
        asyncio.run(self.loader.load(self.model.manifest))

    async def load(self, manifest: Manifest) -> Any:
        return self.model

    def ask(self, deadline: float | None = None, **more: Any) -> InferResponse:
        request = InferRequest("m", (X,), id="r", **more)
        found: InferResponse = asyncio.run(self.model.infer(request, deadline))
        return found

    @property
    def counts(self) -> Counter[tuple[str, ...]]:
        (family,) = self.loader.collect()
        return Counter({tuple(s.labels.values()): int(s.value) for s in family.samples})


READY = [ModelId("m", version) for version in ("9", "10", "11", "12")] + [ModelId("n", "10")]
PREVIOUS = Fallback(version="previous")
REFUSE = Fallback(refuse="come back at night", retry_after_s=90)
SMALL, ANY = Fallback(("failure",), "small"), Fallback(model="other", version="3")
CONSTANT = Fallback(("overload", "deadline"), constant={"y": [0, 0.5], "label": "unknown"})


@pytest.mark.parametrize(
    ("error", "chain", "by"),
    [
        (ModelFailed("it raised"), [CONSTANT, SMALL], "small"),
        (NotReady("it hangs"), [SMALL], "small"),
        (Overloaded("full"), [SMALL, ANY], "other"),
        (Overloaded("full"), [CONSTANT, ANY], "constant"),
        (DeadlineExceeded("cannot be met"), [CONSTANT], "constant"),
        (ModelFailed("it raised"), [Fallback(model="gone"), ANY], "other"),
        (ModelFailed("it raised"), [Fallback(model="back"), ANY], "other"),  # no circles
        (ModelFailed("it raised"), [PREVIOUS, ANY], "other"),  # version 1 has none
    ],
)
def test_the_first_that_answers_for_the_cause(error: Exception, chain: list[Fallback], by: str) -> None:
    loaded = Loaded(chain, error)
    answer = loaded.ask(deadline=101.0)
    assert (answer.model, answer.version, answer.id, answer.parameters["fallback"]) == ("m", "1", "r", by)
    assert sum(loaded.counts.values()) == 1
    if by == "other":
        assert loaded.others.asked[-1] == ("other", "3", 101.0)


@pytest.mark.parametrize(
    ("error", "chain", "deadline"),
    [
        (InvalidInput("wrong shape"), [ANY], None),  # the request's own fault
        (Overloaded("full"), [SMALL], None),  # for other causes only
        (ModelFailed("it raised"), [Fallback(model="gone")], None),
        (DeadlineExceeded("late"), [CONSTANT], 100.0),  # nobody waits any more
    ],
)
def test_else_the_model_s_own_error_is_told(
    error: Exception, chain: list[Fallback], deadline: float | None
) -> None:
    loaded = Loaded(chain, error)
    with pytest.raises(type(error), match=str(error)):
        loaded.ask(deadline)
    assert not loaded.counts


@pytest.mark.parametrize(("own", "older"), [("11", "10"), ("10", "9"), ("13", "12")])
def test_the_newest_older_version_that_is_ready(own: str, older: str) -> None:
    loaded = Loaded([PREVIOUS], ModelFailed("it raised"), version=own)
    answer = loaded.ask()
    assert loaded.others.asked == [("m", older, None)]
    assert (answer.version, answer.parameters["fallback"]) == (own, f"m:{older}")


@pytest.mark.parametrize(("error", "why"), [(Overloaded("full", why="limit"), "limit"), (NotReady("?"), "")])
def test_a_refusal_ends_the_chain(error: SalverError, why: str) -> None:
    loaded = Loaded([Fallback(model="gone"), REFUSE, ANY], error)
    with pytest.raises(Overloaded, match="come back at night") as refused:
        loaded.ask()
    assert (refused.value.retry_after, refused.value.why) == (90, why)
    assert loaded.counts["m", "1", cause_of(error), "refused"] == 1


def test_an_old_answer_from_the_cache_within_its_age() -> None:
    asked: list[float] = []

    async def stale(request: InferRequest, max_age_s: float) -> InferResponse | None:
        asked.append(max_age_s)
        return InferResponse("m", "1", (X,), request.id) if max_age_s > 60 else None

    young, old = (Fallback(cached_s=seconds) for seconds in (60, 600))
    loaded = Loaded([young, old], NotReady("?"), capabilities=msgspec.structs.replace(PLAIN, stale=stale))
    assert loaded.ask().parameters["fallback"] == "cached" and asked == [60, 600]


def test_a_good_answer_is_left_alone() -> None:
    loaded = Loaded([ANY])
    assert not loaded.ask().parameters and not loaded.others.asked


def test_a_constant_is_repeated_for_each_row() -> None:
    loaded = Loaded([CONSTANT], Overloaded("full"))
    y, label = loaded.ask().outputs
    assert y.array.tolist() == [[0, 0.5]] * 3 and y.array.dtype == np.float32
    assert label.array.tolist() == [b"unknown"] * 3


@pytest.mark.parametrize(
    ("fallback", "said"),
    [
        (Fallback(), "needs one of model"),
        (Fallback(model="a", constant={"y": [0, 0]}), "needs one of model"),
        (Fallback(version="previous", refuse="no"), "needs one of model"),
        (Fallback(version="7"), 'without a model it is "previous"'),
        (Fallback(cached_s=9), "no expired answers are kept"),
        (Fallback(model="m"), "no fallback of its own"),
        (Fallback(constant={"y": [0, 0]}), "needs the outputs y, label"),
        (Fallback(constant={"y": [0], "label": "a"}), r"its shape is \[1\], not \[2\]"),
        (Fallback(constant={"y": ["a", "b"], "label": "a"}), "constant.y"),
        (Fallback(constant={"y": [0, [1]], "label": "a"}), "constant.y"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(fallback: Fallback, said: str) -> None:
    with pytest.raises(LoadFailed, match=said):
        Loaded([fallback])


def test_streams_and_long_chains_are_refused_and_the_model_closed() -> None:
    for chain, more in (
        ([ANY] * 11, {}),
        ([ANY], {"capabilities": msgspec.structs.replace(PLAIN, stream=Model.infer)}),
    ):
        config = ModelConfig(fallbacks=tuple(chain))
        model = Model(config, None, **more)

        class Loads:
            async def load(self, manifest: Manifest, model: Model = model) -> Any:
                return model

        loader = FallbackLoader(Loads(), Others(), lambda: 0.0, lambda: ())  # type: ignore[arg-type]
        with pytest.raises(LoadFailed):
            asyncio.run(loader.load(model.manifest))
        assert model.is_closed


MODELS = {
    "big": "    time.sleep(0.3)\n"
    "        if inputs['x'].min() < 0:\n            raise ValueError('negative')\n        f = 1",
    "small": "    f = 10",
}
CONFIG = """
batching = { enabled = false, max_queue = 1 }
[[fallbacks]]
on = ["failure"]
model = "small"
[[fallbacks]]
on = ["overload"]
constant = { sum = -1 }
"""
#: A model whose second version fails, after its first answers have expired.
FORECAST = """
response_cache = true
versions = { latest = 2 }
[[fallbacks]]
on = ["failure"]
cached_s = 3600
[[fallbacks]]
on = ["failure"]
version = "previous"
[[fallbacks]]
on = ["failure"]
refuse = "no forecast now"
retry_after_s = 30
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fallbacks")


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServerProcess]:
    for name, body in MODELS.items():
        (root / "models" / name).mkdir(parents=True)
        (root / "models" / name / "model.py").write_text(
            "import time\n\n\nclass Model:\n"
            "    inputs = {'x': ('FP32', [-1, 3])}\n    outputs = {'sum': ('FP32', [-1])}\n\n"
            f"    def predict(self, inputs):\n    {body}\n"
            "        return {'sum': f * inputs['x'].sum(axis=1)}\n"
        )
    (root / "models" / "big" / "salver.toml").write_text(CONFIG)
    for version, body in ((1, "y = -1 if inputs['x'].min() < 0 else 10"), (2, "y = 20")):
        folder = root / "models" / "forecast" / f"{version}"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(
            "from pathlib import Path\n\n\nclass Model:\n"
            "    inputs = {'x': ('FP32', [-1, 3])}\n    outputs = {'sum': ('FP32', [-1])}\n\n"
            f"    def predict(self, inputs):\n        {body}\n"
            f"        if y < 0 or Path({str(root / f'broken.{version}')!r}).exists():\n"
            "            raise ValueError('broken')\n"
            "        return {'sum': y * inputs['x'].sum(axis=1)}\n"
        )
    (root / "models" / "forecast" / "salver.toml").write_text(FORECAST)
    options = ("--response-cache", "local,size=1m,ttl_seconds=0.2")
    with ServerProcess([root / "models"], root / "log", options) as server:
        yield server.wait_ready()


def ask(server: ServerProcess, x: float, model: str = "big") -> tuple[int, Any]:
    rows = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [x, x, x]}
    return server.post(f"/v2/models/{model}/infer", {"inputs": [rows]})


def test_a_model_that_fails_or_is_full_is_stood_in_for(server: ServerProcess) -> None:
    status, answer = ask(server, 1)
    assert (status, answer["outputs"][0]["data"], "parameters" in answer) == (200, [3.0], False)
    status, answer = ask(server, -1)
    assert (status, answer["outputs"][0]["data"]) == (200, [-30.0])
    assert (answer["model_name"], answer["parameters"]) == ("big", {"fallback": "small"})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server, 1), range(8)))
    assert {status for status, _ in answers} == {200}
    values = Counter(answer["outputs"][0]["data"][0] for _, answer in answers)
    assert set(values) == {3.0, -1.0}
    page = server.get("/metrics")[1].decode()
    assert 'salver_fallbacks_total{cause="failure",model="big",to="small",version="1"} 1.0' in page
    assert 'cause="overload",model="big",to="constant"' in page


def test_an_expired_answer_then_the_version_before_then_a_refusal(root: Path, server: ServerProcess) -> None:
    assert ask(server, 1, "forecast")[1]["outputs"][0]["data"] == [60.0]
    (root / "broken.2").touch()

    def fallback() -> Any:
        return ask(server, 1, "forecast")[1].get("parameters")

    assert until(fallback) == {"fallback": "cached"}  # first, its time to live must have passed
    status, answer = ask(server, 2, "forecast")
    assert (status, answer["outputs"][0]["data"]) == (200, [60.0])
    assert (answer["model_version"], answer["parameters"]) == ("2", {"fallback": "forecast:1"})
    status, answer = ask(server, -1, "forecast")
    assert (status, answer) == (503, {"error": "no forecast now"})
    page = server.get("/metrics")[1].decode()
    assert 'cause="failure",model="forecast",to="refused",version="2"} 1.0' in page
