"""Messages of the control channel and their framing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.backends.protocol import LoadOptions
from salver.kernel.engine.control import (
    MAX_FRAME,
    EndOfPieces,
    Frames,
    GiveUp,
    Load,
    LoadResult,
    Next,
    Piece,
    RequestHead,
    ResponseHead,
    Run,
    RunError,
    RunResult,
    Stop,
    TensorsTaken,
    apart,
    by_number,
    describe,
    frame,
    numbered,
    read_order,
    read_reply,
    rebuild,
    stacked,
)
from salver.kernel.engine.shm import Block
from salver.words import errors
from salver.words.artifacts import Manifest, ModelConfig, Warmup
from salver.words.messages import ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType

Part = list[tuple[str, Array]]
BLOCK = Block("x", "<f4", (2, 3), 64, 24)
SPEC = TensorSpec("y", DataType.BF16, (-1, 10), labels=("cat", "dog"))
MANIFEST = Manifest(
    ModelId("m", "1"),
    Path("/models/m/1/model.onnx"),
    "onnx",
    "onnx",
    ModelConfig(inputs=(SPEC,), options={"a": "b"}, warmup=Warmup(rows=(1, 8))),
    notices=("x has no effect",),
)
ORDERS = [
    Load("a:B", MANIFEST, LoadOptions(2, True, instance=1, config="{}"), ("/p", ""), 512),
    Run((BLOCK, BLOCK)),
    Run((BLOCK,), (None, RequestHead("me", (), {})), (2, 1)),
    Run(
        (BLOCK,),
        (RequestHead("me", ("y",), {"a": 1, "b": True, "c": "s", "d": 1.5}), RequestHead("", (), {})),
    ),
    Run(()),
    Run((BLOCK,), (None, None), (1, 2), (3, 4)),
    Next(3),
    GiveUp(3),
    TensorsTaken(),
    Stop(),
]
REPLIES = [
    LoadResult(Signature((SPEC,), (SPEC,), batched=True, platform="p")),
    LoadResult(Signature((SPEC,), (SPEC,), max_rows=4), asks="stream"),
    Piece(3, (BLOCK,), ResponseHead({"a": 1}), False),
    Piece(3, (), RunError("NotFound", "no"), True),
    EndOfPieces(3),
    EndOfPieces(3, RunError("NotFound", "no")),
    RunResult((BLOCK,), 0.25),
    RunResult((BLOCK,), 0.25, (None, RunError("NotFound", "no"), None), (1, 0, 3)),
    RunResult((BLOCK,), 0.25, (ResponseHead({"a": 1}), RunError("NotFound", "no"), ResponseHead({}))),
    RunError("ModelFailed", "no", "inputs[0]", "Mend it."),
]


def payloads(data: bytes, step: int) -> list[bytes]:
    frames = Frames()
    return [p for at in range(0, len(data), step) for p in frames.feed(data[at : at + step])]


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_messages_arrive_however_the_bytes_do(step: int) -> None:
    stream = b"".join(map(frame, ORDERS))
    assert [read_order(p) for p in payloads(stream, step)] == ORDERS
    stream = b"".join(map(frame, REPLIES))
    assert [read_reply(p) for p in payloads(stream, step)] == REPLIES


def test_arrays_of_several_requests_are_told_apart_again() -> None:
    parts = [{"x": np.zeros(1), "a/b": np.ones(2)}, {}, {"x": np.ones(3)}]
    back = by_number(numbered(parts), 3)
    assert [{name: array.tolist() for name, array in part.items()} for part in back] == [
        {"x": [0], "a/b": [1, 1]},
        {},
        {"x": [1, 1, 1]},
    ]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=6))
def test_arrays_that_are_stacked_and_cut_apart_are_the_same(requests: list[tuple[int, int]]) -> None:
    parts = [
        [("x", np.full((rows, 2), value)), ("s", np.array([b"%d" % value] * rows, object))]
        for rows, value in requests
    ]
    columns = stacked(parts)
    assert columns is not None
    rows = tuple(rows for rows, _ in requests)
    back = apart({name: np.concatenate(pieces) for name, pieces in columns.items()}, rows, len(rows))
    assert [{n: a.tolist() for n, a in part.items()} for part in back] == [
        {n: a.tolist() for n, a in part} for part in parts
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([("x", np.zeros((1, 2)))], [("x", np.zeros((1, 3)))]),
        ([("x", np.zeros((1, 2)))], [("x", np.zeros((1, 2), np.float32))]),
        ([("x", np.zeros((1, 2)))], [("y", np.zeros((1, 2)))]),
        ([("x", np.zeros((1, 2)))], []),
        ([("x", np.array(1.0))], [("x", np.array(1.0))]),
        ([], []),
    ],
)
def test_what_cannot_be_joined_is_not_stacked(first: Part, second: Part) -> None:
    assert stacked([first, second]) is None


@pytest.mark.parametrize("rows", [(1, 1), (1, 1, 2), (4, -1, 0), (1, 1, 1, 0)])
def test_rows_that_are_not_those_of_the_arrays_are_refused(rows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="stacked arrays"):
        apart({"x": np.zeros((3, 1))}, rows, 3)


@pytest.mark.parametrize("key", ["3/x", "-1/x", "x", "/x", "\N{SUPERSCRIPT TWO}/x"])
def test_an_array_of_no_request_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="of 3 requests"):
        by_number({key: np.zeros(1)}, 3)


def test_a_path_stays_a_path() -> None:
    (payload,) = payloads(bytes(frame(ORDERS[0])), 1 << 20)
    load = read_order(payload)
    assert isinstance(load, Load)
    assert load.manifest.path == MANIFEST.path


def test_a_lone_surrogate_in_what_a_model_said_does_not_end_its_process() -> None:
    failed = RunError("ModelFailed", "a\ud800", "b\udfff")
    said = RunResult((), 0.5, (failed, ResponseHead({"c\ud800": "d\ud800", "e": 1}), None), (1,))
    (payload,) = payloads(bytes(frame(said)), 1 << 20)
    assert read_reply(payload) == RunResult(
        (), 0.5, (RunError("ModelFailed", "a?", "b?"), ResponseHead({"c?": "d?", "e": 1}), None), (1,)
    )


def test_a_frame_beyond_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        list(Frames().feed((MAX_FRAME + 1).to_bytes(4, "little")))


@given(st.binary(max_size=60))
def test_nonsense_is_an_error_of_one_kind(data: bytes) -> None:
    try:
        reply = read_reply(data)
    except ValueError:  # msgspec's own errors are ValueErrors
        return
    assert isinstance(reply, LoadResult | RunResult | RunError)


KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.SalverError) and kind is not errors.MissingExtra
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_comes_back_as_itself(kind: type[errors.SalverError]) -> None:
    error = rebuild(describe(kind("what", field="inputs[1]", fix="Do this.")))
    assert type(error) is kind
    assert (error.message, error.field, error.fix) == ("what", "inputs[1]", "Do this.")


def test_a_missing_extra_keeps_its_advice() -> None:
    error = rebuild(describe(errors.MissingExtra("onnx", "onnx", "onnxruntime")))
    assert type(error) is errors.LoadFailed
    assert "pip install 'salver[onnx]'" in str(error)


def test_an_error_kind_of_the_models_own_is_a_model_failure() -> None:
    assert type(rebuild(RunError("Weird", "text"))) is errors.ModelFailed
