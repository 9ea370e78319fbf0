"""Choice of the requests that are logged, and the events about them."""

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from servables import Declaring

from salver.dialects.tensorflow.loading import RecordingAttachment, Sampling
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.ports import Codec
from salver.words.artifacts import Logging, Manifest, ModelConfig
from salver.words.errors import InvalidInput
from salver.words.events import Event, Predicted, Served
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature
from salver.words.tensor import tensor


@pytest.mark.parametrize(("rate", "taken"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_a_share_is_taken_by_chance(rate: float, taken: int) -> None:
    chances = iter([0.0, 0.25, 0.5, 0.9999])
    sampling = Sampling(Logging(rate=rate), lambda: next(chances))
    assert sum(sampling.takes() for _ in range(4)) == taken


def test_about_as_many_as_wished() -> None:
    sampling = Sampling(Logging(rate=0.1), random.Random(5).random)
    assert 850 < sum(sampling.takes() for _ in range(10_000)) < 1150


def test_switched_off_none_is_taken() -> None:
    attachment = RecordingAttachment(lambda: 0.0)
    servable: Any = SimpleNamespace(
        manifest=Manifest(
            ModelId("m", "1"), Path(), "onnx", "onnx", config=ModelConfig(logging=Logging(1.0))
        ),
        adjustment=SimpleNamespace(),
        declare=lambda recording: setattr(servable, "recording", recording),
    )
    asyncio.run(attachment.prepare(servable.manifest))(servable)
    taken = []
    for is_on in (True, False, True):
        attachment.switch(is_on)
        taken.append(servable.recording.takes())
    assert taken == [True, False, True]


class _Echo(Declaring):
    signature = Signature((), (), name="first")

    def __init__(self, logging: Sampling | None) -> None:
        self.recording = logging
        self.id = ModelId("m", "1")
        self.servable = self

    def acquire(self, name: str, version: str = "") -> "_Echo":
        return self

    def release(self) -> None:
        pass

    async def infer(self, request: InferRequest, *_: object) -> InferResponse:
        if not request.inputs:
            raise InvalidInput("nothing")
        return InferResponse("m", "1", request.inputs)


class _Codec(Codec[InferRequest, Any]):
    protocol = "test"

    def decode(self, body: InferRequest, signature: Signature) -> InferRequest:
        return body

    def encode(self, request: InferRequest, response: InferResponse) -> Any:
        return response

    def fault(self, error: Exception) -> Any:
        return error


class _Seen:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, events: Any) -> None:
        self.events += events


async def _ask(logging: Sampling | None, request: InferRequest, api: str = "Predict") -> list[Event]:
    seen = _Seen()
    bus = Bus([seen])
    plane: DataPlane[Any, Any] = DataPlane(RequestPath(_Echo(logging), bus.emit, lambda: 1.0, lambda: "id"))
    await plane.infer(_Codec(), request, "m", "", Call("test", 0.0, api=api))
    bus.flush()
    return seen.events


_REQUEST = InferRequest("m", (tensor("x", np.zeros(1)),))
_ALL = Sampling(Logging(rate=1.0), lambda: 0.5)


@pytest.mark.clause("TF-G18")
async def test_what_is_taken_is_told_with_its_answer() -> None:
    written, served = await _ask(_ALL, _REQUEST)
    assert isinstance(written, Predicted)
    assert isinstance(served, Served)
    assert (written.request, written.response.outputs) == (_REQUEST, _REQUEST.inputs)
    assert (written.api, written.signature, written.wish.rate) == ("Predict", "first", 1.0)
    assert served.api == "Predict"


async def test_the_signature_that_was_asked_by_is_told() -> None:
    written, _ = await _ask(_ALL, InferRequest("m", _REQUEST.inputs, signature="second"))
    assert isinstance(written, Predicted)
    assert written.signature == "second"


@pytest.mark.parametrize("logging", [None, Sampling(Logging(rate=0.5), lambda: 0.5)])
async def test_others_are_not_told(logging: Sampling | None) -> None:
    (served,) = await _ask(logging, _REQUEST)
    assert isinstance(served, Served)


async def test_a_request_without_an_answer_is_not_written_down() -> None:
    (served,) = await _ask(_ALL, InferRequest("m", ()))
    assert isinstance(served, Served)
    assert served.outcome == "invalid_input"
