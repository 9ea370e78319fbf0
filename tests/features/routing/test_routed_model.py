"""One model's requests to its instances: what is repeated, what is not, and by when."""

import asyncio
import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from waiting import auntil

from salver.client.http import NoConnection, Reply, Unreachable
from salver.features.routing.balancing import POLICIES
from salver.features.routing.budget import RetryBudget
from salver.features.routing.choosing import Router
from salver.features.routing.document import Document
from salver.features.routing.engine import RoutedModel
from salver.features.routing.instances import Instance
from salver.features.routing.sequences import SequenceHomes
from salver.features.routing.slowest import LatencyQuantile
from salver.words.artifacts import ModelConfig
from salver.words.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
)
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

SPECS = (TensorSpec("x", DataType.FP32, (-1, 2)),), (TensorSpec("y", DataType.FP32, (-1, 2)),)
GOOD = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [3.0, 4.0]}]}


def reply(status: int = 200, body: object = GOOD, **headers: str) -> Reply:
    names = {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()}
    return Reply(status, names, json.dumps(body).encode())


class Server:
    """Instance that answers what a test says; its clock goes on by the time that an answer takes."""

    def __init__(self, url: str, answer: Callable[[], Any], asked: list[str]) -> None:
        self.url = url
        self._answer = answer
        self._asked = asked
        self.sent: list[bytes] = []
        self.closed = 0

    def request(self, verb: str, path: str, body: bytes, headers: list[tuple[str, str]]) -> bytes:
        self.path, self.headers = path, dict(headers)
        return body

    async def send(self, request: bytes) -> Reply:
        self._asked.append(self.url)
        self.sent.append(request)
        found = self._answer()
        if isinstance(found, Exception):
            raise found
        if asyncio.iscoroutine(found):
            found = await found
        assert isinstance(found, Reply)
        return found

    async def close(self) -> None:
        self.closed += 1


class Bench:
    """A model with instances a, b, …, asked in that order."""

    def __init__(self, *answers: Callable[[], Any], reserve: float = 10, **document: Any) -> None:
        self.asked: list[str] = []
        self.ran: list[BatchRan] = []
        self.now = 100.0
        names = "abcdef"[: len(answers)]
        self.servers = {n: Server(n, answer, self.asked) for n, answer in zip(names, answers, strict=True)}
        told = Document(tuple(names), **document)
        router = Router(
            [Instance(name) for name in names],
            POLICIES["round-robin"](Random(1)),
            told.ejection,
            RetryBudget(0.1, reserve),
            Random(2).random,
            told.max_requests,
        )
        self.model = RoutedModel(
            ModelId("m", "1"),
            Signature(*SPECS, batched=True),
            router,
            self.servers,  # type: ignore[arg-type]
            told,
            ModelConfig(),
            token="secret",
            clock=lambda: self.now,
            emit=self.ran.append,
        )

    def ask(self, deadline: float | None = None, **parameters: Any) -> np.ndarray:
        x = Tensor("x", DataType.FP32, np.ones((1, 2), np.float32))
        request = InferRequest("m", (x,), parameters=parameters)
        return asyncio.run(self.model.infer(request, deadline)).outputs[0].array


def raises(error: type[SalverError], text: str = "") -> Any:
    return pytest.raises(error, match=text)


@pytest.mark.parametrize(
    ("first", "is_repeated"),
    [
        (lambda: reply(), False),
        (lambda: NoConnection("refused"), True),
        (lambda: Unreachable("reset"), True),
        (lambda: reply(500, {"error": "it raised"}), True),
        (lambda: reply(502, {}), True),
        (lambda: reply(503, {"error": "not ready"}), True),
        (lambda: reply(503, {"error": "full"}, retry_after="1"), True),
        (lambda: reply(429, {"error": "full"}, retry_after="1"), True),
        (lambda: reply(404, {"error": "unknown model"}), True),
        (lambda: reply(400, {"error": "wrong shape"}), False),
        (lambda: reply(401, {"error": "no key"}), False),
        (lambda: reply(413, {"error": "too large"}), False),
        (lambda: reply(501, {"error": "unsupported"}), False),
        (lambda: reply(504, {"error": "late"}), False),
    ],
)
def test_what_is_repeated_elsewhere(first: Callable[[], Any], is_repeated: bool) -> None:
    bench = Bench(first, reply)
    if is_repeated:
        assert bench.ask().tolist() == [[3, 4]]
        assert (bench.asked, bench.model.router.retries) == (["a", "b"], 1)
    elif first().status == 200:
        assert bench.ask().tolist() == [[3, 4]] and bench.asked == ["a"]
    else:
        with raises(SalverError, first().body.decode()[11:-2]):
            bench.ask()
        assert bench.asked == ["a"] and not bench.ran[0].ok


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (lambda: NoConnection("refused"), 1),
        (lambda: reply(500), 1),
        (lambda: reply(503, {"error": "full"}, retry_after="1"), 0),
        (lambda: reply(429, {"error": "limit"}), 0),
        (lambda: reply(400, {"error": "wrong"}), 0),
    ],
)
def test_what_counts_against_an_instance(answer: Callable[[], Any], failed: int) -> None:
    bench = Bench(answer)
    with raises(SalverError):
        bench.ask()
    assert bench.model.router.instances[0].load.failed == failed


def test_a_step_of_a_sequence_runs_once_but_may_go_elsewhere_unsent() -> None:
    sent = Bench(lambda: Unreachable("reset"), reply)
    with raises(NotReady, "reset"):
        sent.ask(sequence_id=7)
    assert sent.asked == ["a"]
    unsent = Bench(lambda: NoConnection("refused"), reply)
    assert unsent.ask(sequence_id=7).tolist() == [[3, 4]]


def test_a_sequence_goes_where_it_began_whatever_happens_there() -> None:
    def refused() -> Any:
        return NoConnection("refused") if bench.now > 100 else reply()

    bench = Bench(refused, reply)
    bench.model.homes = SequenceHomes("m")
    assert bench.ask(sequence_id=7, sequence_start=True).tolist() == [[3, 4]]
    bench.ask(sequence_id=8, sequence_start=True)
    bench.ask(sequence_id=7)
    assert bench.asked == ["a", "b", "a"]
    bench.now = 200.0
    with raises(NotReady, "instance a of model 'm': refused"):
        bench.ask(sequence_id=7)
    # One that begins goes to another instance, and stays there.
    bench.ask(sequence_id=9, sequence_start=True)
    bench.ask(sequence_id=9)
    assert bench.asked[3:] in (["a", "b", "b"], ["a", "a", "b", "b"])


def test_attempts_and_budget_are_bounds() -> None:
    down = [lambda: reply(500, {"error": "it raised"})] * 5
    bench = Bench(*down, attempts=3)
    with raises(ModelFailed, "it raised"):
        bench.ask()
    assert bench.asked == ["a", "b", "c"]
    poor = Bench(*down, reserve=0)
    with raises(ModelFailed):
        poor.ask()
    assert poor.asked == ["a"]


def test_the_deadline_holds_over_all_attempts() -> None:
    def slow() -> Reply:
        bench.now += 3
        return reply(500, {"error": "it raised"})

    bench = Bench(slow, slow, reply)
    with raises(DeadlineExceeded):
        bench.ask(deadline=105.0)
    assert bench.asked == ["a", "b"]
    assert b'"timeout":5000000' in bench.servers["a"].sent[0]


def test_an_instance_that_stalls_is_left_and_asked_no_more() -> None:
    bench = Bench(lambda: asyncio.sleep(60), reply, attempt_s=0.05)
    assert bench.ask().tolist() == [[3, 4]]
    assert bench.model.router.instances[0].load.failed == 1
    # Its idle connections may be as dead.
    assert [server.closed for server in bench.servers.values()] == [1, 0]


def hedging(*answers: Callable[[], Any], reserve: float = 10) -> Bench:
    """A model whose usual latency is known to be 20 ms."""
    bench = Bench(*answers, hedge=0.95, reserve=reserve)
    for _ in range(100):
        bench.model._usual.add(0.02)
    bench.model._usual.seconds = 0.02
    return bench


def test_another_one_is_asked_beside_one_that_takes_long() -> None:
    bench = hedging(lambda: asyncio.sleep(60), reply)
    assert bench.ask().tolist() == [[3, 4]]
    router = bench.model.router
    assert (bench.asked, router.hedges, router.retries) == (["a", "b"], 1, 0)
    # The first one is left, and nothing is held against it.
    slow = router.instances[0]
    assert (slow.load.pending, slow.load.failed, slow.failures) == (0, 0, 0)
    assert router.budget.tokens == pytest.approx(9)


def test_no_hedge_beyond_the_budget_or_for_a_sequence() -> None:
    for bench, parameters in (
        (hedging(delayed, reply, reserve=0), {}),
        (hedging(delayed, reply), {"sequence_id": 3}),
    ):
        assert bench.ask(**parameters).tolist() == [[3, 4]]
        assert (bench.asked, bench.model.router.hedges) == (["a"], 0)


async def delayed() -> Reply:
    await asyncio.sleep(0.1)
    return reply()


def test_a_hedge_that_fails_leaves_the_word_to_the_first() -> None:
    async def late() -> Reply:
        await auntil(lambda: bench.model.router.instances[1].load.failed)
        return reply()

    bench = hedging(late, lambda: reply(500, {"error": "it raised"}))
    assert bench.ask().tolist() == [[3, 4]] and bench.asked == ["a", "b"]


def test_both_fail_and_a_third_is_asked() -> None:
    async def fails() -> Reply:
        await auntil(lambda: bench.asked == ["a", "b"])
        return reply(500, {"error": "it raised"})

    bench = hedging(fails, lambda: reply(500, {"error": "it raised"}), reply)
    assert bench.ask().tolist() == [[3, 4]] and bench.asked == ["a", "b", "c"]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_the_estimate_of_the_usual_latency(share: float) -> None:
    estimate, random = LatencyQuantile(share), Random(5)
    for _ in range(5000):
        estimate.add(random.expovariate(100))
    found = []
    for _ in range(2000):
        estimate.add(random.expovariate(100))
        found.append(estimate.seconds)
    assert estimate.is_known
    assert 1 - np.exp(-100 * np.mean(found)) == pytest.approx(share, abs=0.03)


def test_a_caller_that_goes_away_frees_the_instance() -> None:
    bench = Bench(lambda: asyncio.sleep(60))

    async def leave() -> None:
        x = Tensor("x", DataType.FP32, np.ones((1, 2), np.float32))
        task = asyncio.create_task(bench.model.infer(InferRequest("m", (x,))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    (instance,) = bench.model.router.instances
    assert (instance.load.pending, instance.load.failed, bench.model.running) == (0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [{}, {"outputs": []}, {"outputs": [{"name": "y", "datatype": "FP32", "shape": [3, 2], "data": [1]}]}, 7],
)
def test_wrong_answers_are_a_failure_of_the_model(body: object) -> None:
    with raises(ModelFailed, "gave a wrong answer"):
        Bench(lambda: reply(200, body)).ask()


def test_requests_are_checked_before_they_are_sent() -> None:
    bench = Bench(reply)
    x = Tensor("x", DataType.FP32, np.ones((1, 3), np.float32))
    with raises(InvalidInput, "shape"):
        asyncio.run(bench.model.infer(InferRequest("m", (x,))))
    assert bench.asked == []


def test_path_key_and_token() -> None:
    bench = Bench(reply, model="other model", version="3", policy="consistent-hash", key="user")
    bench.ask(user="ann")
    server = bench.servers["a"]
    assert server.path == "/v2/models/other%20model/versions/3/infer"
    assert server.headers["authorization"] == "Bearer secret"


def test_without_an_instance_it_is_not_ready() -> None:
    bench = Bench(reply)
    bench.model.router.instances[0].is_draining = True
    with raises(NotReady, "no instance of model 'm' is there"):
        bench.ask()
    asyncio.run(bench.model.close())
    with raises(NotReady, "shutting down"):
        bench.ask()


def test_an_overload_is_told_as_one() -> None:
    bench = Bench(lambda: reply(429, {"error": "full"}, retry_after="7"), attempts=1)
    with raises(Overloaded, "full") as caught:
        bench.ask()
    assert caught.value.retry_after == 7


def test_no_instance_gets_more_requests_than_it_may_have() -> None:
    """Where all are full, a request is refused at once, and it is told as an overload."""
    gate = asyncio.Event()

    async def held() -> Reply:
        await gate.wait()
        return reply()

    bench = Bench(held, held, max_requests=2)

    async def crowd() -> list[Any]:
        x = Tensor("x", DataType.FP32, np.ones((1, 2), np.float32))
        asks = [asyncio.create_task(bench.model.infer(InferRequest("m", (x,)))) for _ in range(5)]
        await asyncio.sleep(0)
        assert [each.load.pending for each in bench.model.router.instances] == [2, 2]
        gate.set()
        return await asyncio.gather(*asks, return_exceptions=True)

    *answers, refused = asyncio.run(crowd())
    assert len(answers) == 4 and all(answer.outputs for answer in answers)
    assert isinstance(refused, Overloaded) and refused.why == "queue_full"
    assert sorted(bench.asked) == ["a", "a", "b", "b"]


def test_a_group_answers_alone_and_must_exist() -> None:
    bench = Bench(reply, reply, reply)
    bench.model.router.instances[1].group = "canary"
    x = Tensor("x", DataType.FP32, np.ones((1, 2), np.float32))
    request = InferRequest("m", (x,), group="canary")
    for _ in range(3):
        asyncio.run(bench.model.infer(request))
    assert bench.asked == ["b", "b", "b"]
    with raises(NotReady, "no instance of group 'blue' of model 'm' is there"):
        asyncio.run(bench.model.infer(msgspec.structs.replace(request, group="blue")))
