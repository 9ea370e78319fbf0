"""Requests that fronts have decoded, run by one engine of the home process."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import auntil

from salver.backends.protocol import Traits
from salver.features.fronts.copies import Granted
from salver.features.fronts.lent_engines import LentEngine, LentRequests
from salver.features.fronts.messages import FromFront, FromHome, Refusal
from salver.features.fronts.remote_engine import RemoteEngine, RemoteRequests
from salver.features.fronts.tensors import pickled, received, sent, unpickled
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.lifecycle.copies import Lease
from salver.words import errors
from salver.words.artifacts import Batching, Manifest, ModelConfig
from salver.words.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
    tritons,
)
from salver.words.messages import InferRequest, InferResponse, ModelId, RequestedOutput, Signature, TensorSpec
from salver.words.tensor import DATATYPES, DataType, Tensor, tensor

ID = ModelId("m", "1")
SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),),
    (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("z", DataType.FP32, (-1, 2))),
    batched=True,
)


class Gated:
    """Model that doubles, once its gate is open."""

    signature = SIGNATURE

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.runs: list[int] = []

    def run(self, inputs: Any) -> dict[str, Any]:
        self.gate.wait()
        x = inputs["x"]
        self.runs.append(len(x))
        if np.isnan(x).any():
            raise ValueError("not a number")
        return {"y": x * 2, "z": x}

    def close(self) -> None:
        pass


class Home:
    """Home process with one engine, and any number of fronts without sockets."""

    def __init__(self, **config: Any) -> None:
        self.model = Gated()
        self.events: list[Any] = []
        self.engine = Engine(
            ID,
            ThreadRunner([self.model], Traits(), slots=1),
            ModelConfig(**config),
            clock=asyncio.get_running_loop().time,
            emit=self.events.append,
        )
        self.released = 0
        servable: Any = type("Fake", (), {"capabilities": type("Able", (), {"post": self.engine.post})})
        lease: Any = type("Kept", (), {"id": ID, "servable": servable, "release": self._release})
        self.lent = LentEngine(7, lease)
        self.sides: list[LentRequests] = []

    def _release(self) -> None:
        self.released += 1

    def front(self, key: int = 7) -> RemoteEngine:
        """A front's engine; messages are encoded and decoded as on the socket."""
        home = LentRequests({7: self.lent}, lambda message: requests.hear(_coded(message, FromHome)))

        def send(message: Any) -> None:
            decoded = _coded(message, FromFront)
            home.leave(decoded) if type(decoded).__name__ == "Leave" else home.begin(decoded)

        requests = RemoteRequests(send)
        self.sides.append(home)
        manifest = Manifest(ID, None, "onnx", "onnx")  # type: ignore[arg-type]
        return RemoteEngine(Granted(manifest, SIGNATURE, key), requests)


def _coded(message: Any, kinds: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kinds)


def ask(*values: float, **more: Any) -> InferRequest:
    return InferRequest("m", (tensor("x", np.array([values] * 2, np.float32).T),), **more)


async def test_requests_of_several_fronts_share_a_run() -> None:
    home = Home()
    fronts = [home.front() for _ in range(3)]
    asked = [front.infer(ask(float(i), i + 0.5, id=f"{i}")) for i, front in enumerate(fronts * 2)]
    answers = await asyncio.gather(*asked)
    for i, answer in enumerate(answers):
        assert answer.outputs[0].array.tolist() == [[2 * (i % 6)] * 2, [2 * (i % 6) + 1] * 2]
        assert (answer.id, answer.version, answer.timing.batch_rows) == (f"{i}", "1", 12)
    assert home.model.runs == [12]
    assert [(event.rows, event.requests) for event in home.events] == [(12, 6)]
    await home.engine.close()


async def test_an_answer_is_that_of_the_engine_itself() -> None:
    home = Home(batching=Batching(max_rows=4))
    front = home.front()
    for request in (
        ask(1.0),
        ask(*range(11)),
        ask(1.0, outputs=(RequestedOutput("z"),)),
        ask(1.0, parameters={"timeout": 5, "a": "b"}),
    ):
        own, theirs = await home.engine.infer(request), await front.infer(request)
        assert [repr(each) for each in own.outputs] == [repr(each) for each in theirs.outputs]
        for one, other in zip(own.outputs, theirs.outputs, strict=True):
            np.testing.assert_array_equal(one.array, other.array)
    await home.engine.close()


@pytest.mark.parametrize(
    "request_",
    [
        ask(float("nan")),
        ask(1.0, outputs=(RequestedOutput("none"),)),
        InferRequest("m", (tensor("x", np.zeros((1, 3), np.float32)),), id="7"),
        InferRequest("m", (tensor("x", np.zeros((1, 2), np.int64)),)),
        InferRequest("m", (tensor("x", [["a", "b"]]),), id="7"),
        InferRequest("m", (tensor("none", np.zeros((1, 2), np.float32)),)),
        InferRequest("m", ()),
    ],
)
async def test_an_error_is_that_of_the_engine_itself(request_: InferRequest) -> None:
    home = Home()
    front = home.front()
    found = []
    for engine in (home.engine, front):
        with pytest.raises(SalverError) as caught:
            await engine.infer(request_)
        error = caught.value
        found.append((type(error), str(error), error.about, error.triton, error.is_late, error.why))
    assert found[0] == found[1]
    await home.engine.close()


async def test_deadlines_and_a_full_queue_hold_over_all_fronts() -> None:
    home = Home(batching=Batching(max_rows=1, max_queue=2))
    fronts = [home.front() for _ in range(2)]
    home.model.gate.clear()
    running = asyncio.ensure_future(fronts[0].infer(ask(1.0)))
    await auntil(lambda: home.engine.running)
    waiting = [asyncio.ensure_future(front.infer(ask(2.0))) for front in fronts]
    await auntil(lambda: home.engine.queued == 2)
    with pytest.raises(Overloaded) as caught:
        await fronts[1].infer(ask(3.0, id="a"))
    assert (caught.value.why, caught.value.about, caught.value.retry_after) == ("queue_full", "a", 1.0)
    with pytest.raises(DeadlineExceeded):
        await fronts[1].infer(ask(3.0), home.engine.now() - 1.0)
    waiting[0].cancel()
    await auntil(lambda: home.engine.queued == 1)
    home.model.gate.set()
    await asyncio.gather(running, waiting[1])
    assert home.model.runs == [1, 1]
    await home.engine.close()


async def test_who_is_gone_is_not_run() -> None:
    home = Home(batching=Batching(max_rows=1))
    front, other = home.front(), home.front()
    home.model.gate.clear()
    told: list[Any] = []

    def post(engine: RemoteEngine) -> Callable[[], None]:
        return engine.post(ask(1.0), None, lambda said, others: told.append(said))

    post(front)
    await auntil(lambda: home.engine.running)
    leave = post(front)
    for _ in range(3):
        post(other)
    await auntil(lambda: home.engine.queued == 4)
    leave()
    leave()
    assert home.engine.queued == 3
    home.sides[1].abandon()
    assert home.engine.queued == 0
    home.model.gate.set()
    await auntil(lambda: told)
    assert len(told) == 1 and isinstance(told[0], InferResponse)
    await home.engine.close()


async def test_a_version_stays_loaded_until_its_last_request_has_ended() -> None:
    home = Home()
    front = home.front()
    home.model.gate.clear()
    running = asyncio.ensure_future(front.infer(ask(1.0)))
    await auntil(lambda: home.engine.running)
    home.lent.end()
    home.lent.end()
    assert not home.released
    home.model.gate.set()
    await running
    assert home.released == 1
    with pytest.raises(NotReady):
        await home.front(8).infer(ask(1.0))
    await home.engine.close()


async def test_what_no_table_foresees_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    home = Home()
    home.lent.post = lambda *_: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(SalverError, match="ZeroDivisionError; the log"):
        await home.front().infer(ask(1.0))
    assert "ZeroDivisionError" in caplog.text
    await home.engine.close()


@given(st.data())
def test_tensors_arrive_as_they_were_sent(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([each for each in DATATYPES.values() if each is not DataType.BYTES]))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    size = int(np.prod(shape)) * kind.itemsize
    raw = bytearray(data.draw(st.binary(min_size=size, max_size=size)))
    if kind is DataType.BOOL:
        raw = bytearray(byte & 1 for byte in raw)
    array = np.ndarray(shape, kind.dtype, raw)
    (found,) = received(_coded(Sent(sent([Tensor("t", kind, array)])), Sent).tensors)
    assert (found.name, found.datatype, found.array.shape) == ("t", kind, shape)
    assert found.array.tobytes() == array.tobytes()


class Sent(msgspec.Struct, array_like=True):
    tensors: tuple[tuple[str, str, tuple[int, ...], bytes], ...]


@pytest.mark.parametrize(
    "tensors",
    [
        (("x", "FP32", (-1, 2), b""),),
        (("x", "FP32", (3,), b"12345678"),),
        (("x", "none", (1,), b"1234"),),
        (("x", "BYTES", (1,), b"12345678"),),
    ],
)
def test_what_is_no_tensor_is_refused(tensors: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        received(tensors)


KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, SalverError)
    and {"field", "fix"} <= inspect.signature(kind).parameters.keys()
]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_keep_their_attributes(kind: type[SalverError]) -> None:
    error = tritons(kind("text", field="a.b", fix="Do."), "Triton's")
    error.about, error.is_late = "7", True
    if isinstance(error, Overloaded):
        error.retry_after, error.why = 3.5, "objective"
        error.recur = lambda count, now: None
    found = unpickled(pickled(error))
    assert type(found) is kind
    assert str(found) == str(error)
    assert (found.about, found.is_late, found.triton, found.why) == ("7", True, "Triton's", error.why)
    assert getattr(found, "retry_after", None) == getattr(error, "retry_after", None)


def test_an_error_of_a_run_has_its_text() -> None:
    assert "raised" in str(unpickled(pickled(ModelFailed("model 'm' raised"))))
    assert Refusal(1, pickled(InvalidInput("x"))).number == 1
    assert Lease  # the manager's lease has the fields that LentEngine reads
