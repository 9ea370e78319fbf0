"""Requests and answers as events, and requests that are events; beside KServe in tests/deploy."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from asgi_calls import Reply, asked
from waiting import auntil

from salver.features import CloudEventsConfig
from salver.features.cloudevents.events_app import EventsApp
from salver.features.cloudevents.sending import Event, EventSender
from salver.transport.exchange import never
from salver.transport.http1_head import Head
from salver.words.errors import InvalidInput

URL = "http://sink/"
PREDICT = "/v1/models/m:predict"
EVENT = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "me", "ce-type": "t"}
WHEN = datetime(2026, 12, 1, tzinfo=UTC)


class Sink:
    """What gets the events; it waits while it is held, and refuses if it is broken."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.got: list[tuple[bytes, Mapping[str, str]]] = []
        self.opened = threading.Event()
        self.opened.set()
        self._is_broken = is_broken

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        assert url == URL
        self.opened.wait(60)
        if self._is_broken:
            raise ConnectionRefusedError("nobody listens")
        self.got.append((body, headers))


async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Answer with as many letters as the query says, or with an error."""
    await receive()
    status = 400 if scope["query_string"] == b"bad" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"x/y")]})
    await send({"type": "http.response.body", "body": b"answer"})


async def logged(
    verb: str, target: str, sent: Mapping[str, str] | None = None, body: bytes = b"question", **config: Any
) -> tuple[Reply, list[tuple[bytes, Mapping[str, str]]], EventSender]:
    settings = CloudEventsConfig(url=URL, **config)
    sink = Sink()
    sender = EventSender(settings, sink)
    reply = await asked(EventsApp(app, settings, sender), verb, target, body, sent)
    await sender.close()
    return reply, sorted(sink.got, key=lambda each: each[1]["Ce-Type"]), sender


async def test_a_request_and_its_answer_are_events_as_of_kserve() -> None:
    sent = {"content-type": "application/json", "foo": "bar", "secret": "no"}
    reply, got, sender = await logged(
        "POST", PREDICT, sent, service="iris", namespace="team", headers=("Foo",), annotations={"a": "b"}
    )
    assert reply.body == b"answer" and "ce-id" not in reply.headers
    (question, first), (answer, second) = got
    assert (question, answer) == (b"question", b"answer")
    assert first["Ce-Type"] == "org.kubeflow.serving.inference.request"
    assert second["Ce-Type"] == "org.kubeflow.serving.inference.response"
    assert first["Ce-Id"] == second["Ce-Id"] and len(first["Ce-Id"]) == 36
    same = {
        "Content-Type": "application/json",  # the request's, also for the answer
        "Ce-Specversion": "1.0",
        "Ce-Source": "salver",
        "Ce-Inferenceservicename": "iris",
        "Ce-Namespace": "team",
        "Ce-Component": "predictor",
        "Ce-Endpoint": "",
        "Ce-Metadata": '{"Foo": ["bar"]}',
        "Ce-Annotations": '{"a": "b"}',
    }
    for event in (first, second):
        assert same.items() <= event.items()
        arrived, left = event["Ce-Time"], event["Ce-Recordedtime"]
        assert datetime.fromisoformat(arrived) <= datetime.fromisoformat(left)
    assert sender.counts == {"sent": 2, "failed": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("verb", "target", "config", "kinds"),
    [
        ("POST", "/v2/models/m/versions/1/infer", {}, ["request", "response"]),
        ("POST", "/v1/chat/completions", {}, ["request", "response"]),
        ("POST", PREDICT, {"mode": "request"}, ["request"]),
        ("POST", PREDICT, {"mode": "response"}, ["response"]),
        ("POST", f"{PREDICT}?bad", {}, []),  # only what succeeds
        ("GET", "/v2/health/ready", {}, []),
        ("GET", "/v2/models/m", {}, []),
        ("POST", "/v2/repository/models/m/load", {}, []),
        ("POST", "/inference.GRPCInferenceService/ModelInfer", {}, []),
    ],
)
async def test_what_is_sent(verb: str, target: str, config: Mapping[str, Any], kinds: list[str]) -> None:
    _, got, _ = await logged(verb, target, **config)
    assert [headers["Ce-Type"].rpartition(".")[2] for _, headers in got] == kinds


async def test_the_id_of_an_event_is_kept_unless_it_could_forge_a_header() -> None:
    _, got, _ = await logged("POST", PREDICT, {"ce-id": "mine"})
    assert {headers["Ce-Id"] for _, headers in got} == {"mine"}
    _, got, _ = await logged("POST", PREDICT, {"ce-id": "a\r\nb"})
    assert {len(headers["Ce-Id"]) for _, headers in got} == {36}


async def test_a_large_body_is_counted_and_not_sent() -> None:
    _, got, sender = await logged("POST", PREDICT, body=bytes((8 << 20) + 1))
    assert [body for body, _ in got] == [b"answer"]
    assert sender.counts["dropped"] == 1


async def test_nobody_waits_for_a_slow_sink(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.opened.clear()
    sender = EventSender(CloudEventsConfig(url=URL), sink)
    for number in range(300):
        sender.put(Event("request", str(number), WHEN, "", b"", {}))
    dropped = sender.counts["dropped"]
    assert dropped == 200
    assert "events have been lost" in caplog.text
    sink.opened.set()
    await auntil(lambda: sender.counts["sent"] == 100)
    sender.put(Event("request", "last", WHEN, "", bytes(65 << 20), {}))
    assert sender.counts["dropped"] == dropped + 1
    await sender.close()


async def test_a_broken_sink_costs_events_and_nothing_else() -> None:
    sender = EventSender(CloudEventsConfig(url=URL), Sink(is_broken=True))
    for number in range(50):
        sender.put(Event("request", str(number), WHEN, "", b"", {}))
    await sender.close()
    assert sender.counts == {"sent": 0, "failed": 50, "dropped": 0}


async def test_a_request_that_is_an_event_is_answered_by_one() -> None:
    events = EventsApp(app, CloudEventsConfig(answers=True), None)
    reply = await asked(events, "POST", PREDICT, b"{}", EVENT)
    assert reply.headers["ce-specversion"] == "1.0" and reply.headers["ce-id"] != "7"
    assert reply.headers["ce-type"] == "io.kserve.inference.response"
    assert reply.headers["ce-source"] == "io.kserve.inference.m"
    assert reply.body == b"answer"
    for headers in ({}, {name: EVENT[name] for name in list(EVENT)[1:]}):
        assert "ce-id" not in (await asked(events, "POST", PREDICT, b"{}", headers)).headers
    assert "ce-id" not in (await asked(events, "POST", f"{PREDICT}?bad", b"{}", EVENT)).headers


def test_requests_that_are_no_events_keep_the_fast_path() -> None:
    def find(head: Head) -> None:
        return None

    async def served(*given: Any) -> None: ...

    served.find_prompt = find  # type: ignore[attr-defined]
    only = EventsApp(served, CloudEventsConfig(answers=True), None)
    both = EventsApp(served, CloudEventsConfig(url=URL), EventSender(CloudEventsConfig(url=URL), Sink()))

    def head(path: bytes, *headers: tuple[bytes, bytes]) -> Head:
        return Head("POST", path, b"", "1.1", headers, headers, 0, True, False, {})

    assert only.find_prompt(head(PREDICT.encode())) is None
    assert only.find_prompt(head(PREDICT.encode(), (b"ce-id", b"7"))) is never
    assert both.find_prompt(head(PREDICT.encode())) is never
    assert both.find_prompt(head(b"/v2/models/m")) is None


@pytest.mark.parametrize("wrong", [{"url": "kafka://x"}, {"url": URL, "source": "a\nb"}, {"namespace": "ä"}])
def test_what_cannot_be_sent_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        CloudEventsConfig(**wrong)
