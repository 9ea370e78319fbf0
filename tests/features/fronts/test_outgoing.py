"""Requests on their way from a front to the home process, and what becomes of their answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from salver.encoding.bodies import GrpcStatus
from salver.features.fronts.messages import Answer, Begin, Failed, Gone, GrpcReply, Read, Reply, Trailers
from salver.features.fronts.outgoing import OutgoingRequests
from salver.transport.http1_head import Heads

HEAD = Heads().parse(b"POST /a?q HTTP/1.1\r\nA: b\r\nContent-Length: 3")
assert HEAD is not None


class Asked:
    """Request whose answer is kept, as :class:`~salver.transport.exchange.Exchange` has it."""

    def __init__(self) -> None:
        self.head, self.client, self.arrival, self.lag = HEAD, ("127.0.0.1", 5), 1.0, 0.0
        self.on_gone: Callable[[], None] = lambda: None
        self.got: list[Any] = []
        self.task: asyncio.Task[None] | None = None

    async def receive(self) -> dict[str, Any]:
        raise AssertionError("the body is whole")

    def reply(self, *answer: Any) -> None:
        self.got.append(answer)

    def reply_grpc(self, *answer: Any) -> None:
        self.got.append(answer)

    async def send(self, message: dict[str, Any]) -> None:
        self.got.append(message)

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            await work()

        self.task = asyncio.ensure_future(main())


def passed_on() -> tuple[list[Any], OutgoingRequests, Asked]:
    sent: list[Any] = []
    requests, asked = OutgoingRequests(sent.append), Asked()
    requests.begin_promptly(asked, b"one", "http")  # type: ignore[arg-type]
    return sent, requests, asked


async def test_whole_answers_need_no_task() -> None:
    sent, requests, asked = passed_on()
    (begin,) = sent
    assert isinstance(begin, Begin)
    assert (begin.path, begin.query, begin.body, begin.headers[0]) == (b"/a", b"q", b"one", (b"a", b"b"))
    requests.hear(Reply(1, 200, ((b"x", b"y"),), b"two", "id"))
    assert asked.got == [(200, ((b"x", b"y"),), b"two", "id")]
    assert asked.task is None


async def test_statuses_and_messages_of_grpc() -> None:
    for reply, wanted in (
        (GrpcReply(1, b"m", ((b"x", b"y"),)), (b"m", ((b"x", b"y"),))),
        (GrpcReply(1, b"", (), 5, "no", 7), (GrpcStatus(5, "no", 7), ())),
    ):
        _, requests, asked = passed_on()
        requests.hear(reply)
        assert asked.got == [wanted]


async def test_answers_in_pieces_get_a_task() -> None:
    sent, requests, asked = passed_on()
    requests.hear(Answer(1, 200, (), None, True, b"one", True))
    requests.hear(Answer(1, 0, (), None, True, b"two", False))
    requests.hear(Trailers(1, ((b"t", b"u"),)))
    assert asked.task is not None
    await asked.task
    assert [message.get("body", message["type"]) for message in asked.got] == [
        "http.response.start",
        b"one",
        b"two",
        "http.response.trailers",
    ]
    assert sent[1:] == [Read(1, 3)]


async def test_who_goes_is_told_to_the_home_process() -> None:
    sent, requests, asked = passed_on()
    asked.on_gone()
    assert sent[1:] == [Gone(1)]
    requests.hear(Reply(1, 200, (), b"", "id"))
    assert asked.got == []


async def test_who_goes_just_when_the_answer_begins_is_told_as_well() -> None:
    sent, requests, asked = passed_on()
    requests.hear(Answer(1, 200, (), None, False, b"one", True))
    assert asked.task is not None
    asked.task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sent[1:] == [Gone(1)]
    requests.hear(Answer(1, 0, (), None, False, b"two", False))
    assert asked.got == []


async def test_what_the_home_process_cannot_answer_fails() -> None:
    _, requests, asked = passed_on()
    requests.hear(Failed(1))
    assert asked.task is not None
    (failed,) = await asyncio.gather(asked.task, return_exceptions=True)
    assert "has not answered" in str(failed)
