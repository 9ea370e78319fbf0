"""Retries, patience and the search for the bad row, against a client that answers as told."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from salver.client import Client, Unreachable
from salver.client.client import _checked
from salver.client.http import Reply
from salver.features.bulk.ask import BlockSender, Model
from salver.features.bulk.rows import Piece
from salver.words import errors
from salver.words.tensor import Array, DataType, Tensor

Behave = Callable[[Array], Mapping[str, Array]]


class Told(Client):
    """Answers with a function, after the errors that it was given."""

    def __init__(self, behave: Behave, *before: Exception) -> None:
        super().__init__()
        self.behave, self.before = behave, list(before)
        self.asked: list[Array] = []
        self.options: dict[str, Any] = {}

    async def infer(self, model: str, inputs: Mapping[str, object], **options: Any) -> dict[str, Array]:
        x = inputs["x"]
        assert isinstance(x, Tensor)
        self.asked.append(x.array)
        self.options = options
        if self.before:
            raise self.before.pop(0)
        return dict(self.behave(x.array))


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def piece(count: int) -> Piece:
    x = np.arange(count, dtype=np.int32)
    return Piece({"x": x}, [int(i) + 1 for i in x], {"id": [f"k{i}" for i in x]})


def asker(client: Client, time: Time, *, batched: bool = True, patience: float = 300) -> BlockSender:
    model = Model("m", "", (), batched, {"x": DataType.INT32})
    return BlockSender(client, model, patience, clock=time.clock, sleep=time.sleep)


def double(x: Array) -> Mapping[str, Array]:
    return {"y": x * 2}


async def test_every_request_is_marked_as_bulk() -> None:
    client = Told(double)
    answers, bad = await asker(client, Time()).ask(piece(3))
    assert client.options["parameters"] == {"service_class": "bulk"}
    assert answers[0].outputs["y"].tolist() == [0, 2, 4]
    assert bad == []


@pytest.mark.parametrize(
    "error",
    [
        errors.Overloaded("full", retry_after=7),
        Unreachable("gone"),
        errors.NotReady("loading"),
        errors.NotFound("not yet there"),
        errors.DeadlineExceeded("late"),
    ],
)
async def test_what_passes_is_tried_again(error: errors.SalverError) -> None:
    client, time = Told(double, *[error] * 4), Time()
    mine = asker(client, time)
    answers, bad = await mine.ask(piece(3))
    assert (len(answers), bad, mine.retries, mine.waiting) == (1, [], 4, "")
    wish = 7 if isinstance(error, errors.Overloaded) else 0
    backoff = [slept - wish for slept in time.slept]
    for index, slept in enumerate(backoff):
        assert 0.05 * 2**index <= slept <= 0.15 * 2**index
    assert len(set(time.slept)) == 4  # jitter


async def test_patience_ends_and_a_success_renews_it() -> None:
    time = Time()
    client = Told(double, *[Unreachable("gone")] * 1000)
    mine = asker(client, time, patience=60)
    with pytest.raises(Unreachable, match="gone"):
        await mine.ask(piece(1))
    assert 60 <= time.now < 60 + 15 * 1.5
    assert "gone" in mine.waiting
    client.before = []
    await mine.ask(piece(1))
    began = time.now
    client.before = [Unreachable("gone")] * 1000
    with pytest.raises(Unreachable):
        await mine.ask(piece(1))
    assert time.now - began >= 60


@pytest.mark.parametrize("error", [errors.InvalidInput, errors.ModelFailed, errors.TooLarge])
async def test_only_the_culprits_are_without_an_answer(error: type[errors.SalverError]) -> None:
    def behave(x: Array) -> Mapping[str, Array]:
        if wrong := [int(value) for value in x if value in (3, 11)]:
            raise error(f"cannot stand {wrong[0]}")
        return double(x)

    answers, bad = await asker(Told(behave), Time()).ask(piece(16))
    assert [(one.line, one.reason) for one in bad] == [(4, "cannot stand 3"), (12, "cannot stand 11")]
    assert [line for a in answers for line in a.piece.lines] == [i for i in range(1, 17) if i not in (4, 12)]
    assert [v for a in answers for v in a.outputs["y"].tolist()] == [
        2 * i for i in range(16) if i not in (3, 11)
    ]
    assert [key for a in answers for key in a.piece.kept["id"]] == [
        f"k{i}" for i in range(16) if i not in (3, 11)
    ]


async def test_a_row_is_not_blamed_for_a_process_that_died_once() -> None:
    client = Told(double, errors.ModelFailed("the host died"))
    answers, bad = await asker(client, Time()).ask(piece(1))
    assert (len(answers), bad) == (1, [])
    client.before = [errors.ModelFailed("x")] * 2
    assert (await asker(client, Time()).ask(piece(1)))[1][0].reason == "x"


async def test_without_a_batch_dimension() -> None:
    client = Told(lambda x: {"y": np.array(x + 1)})
    answers, _ = await asker(client, Time(), batched=False).ask(piece(1))
    assert client.asked[0].shape == ()
    assert answers[0].outputs["y"].tolist() == [1]


async def test_an_answer_with_other_rows_than_the_question_ends_the_job() -> None:
    with pytest.raises(errors.Conflict, match=r"m answers 4 rows with y of shape \[1\]"):
        await asker(Told(lambda x: {"y": np.zeros(1)}), Time()).ask(piece(4))


@pytest.mark.parametrize(("wish", "seconds"), [(b"7", 7.0), (b"Wed, 21 Oct 2015 07:28:00 GMT", 1.0)])
def test_a_busy_server_says_when_to_come_back(wish: bytes, seconds: float) -> None:
    with pytest.raises(errors.Overloaded) as caught:
        _checked(Reply(503, {b"retry-after": wish}, b'{"error": "full"}'))
    assert (caught.value.message, caught.value.retry_after) == ("full", seconds)
    with pytest.raises(errors.NotReady):
        _checked(Reply(503, {}, b'{"error": "loading"}'))
