"""Are deliveries seen, sent again, and is nobody kept waiting by those who do not answer, or answer oddly?"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from registries import ANN, Clock, counted, found
from sqlalchemy import func, select
from waiting import PATIENCE_S

from salver.features.ledger.schema import DELIVERY
from salver.features.registry.deliveries import Deliverer
from salver.features.registry.posting import post
from salver.features.registry.records import NewVersion
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.webhooks import Webhooks
from salver.words.errors import InvalidInput, NotFound


class Receivers:
    """Answer by host: a status, or a failure."""

    def __init__(self, **answers: int | Exception) -> None:
        self.answers = answers
        self.told: list[tuple[str, str]] = []

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        host = url.split("/")[2]
        self.told.append((host, headers["webhook-id"]))
        answer = self.answers.get(host, 200)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
async def hooks(registry: ModelRegistry, clock: Clock, tmp_path: Path) -> Webhooks:
    """Of a model that is there, for two hosts."""
    await registry.push(NewVersion("fraud"), found(tmp_path / "new"), ANN)
    hooks = Webhooks(registry.ledger, clock, counted("hook").__next__, lambda count: bytes(range(count)))
    for host in ("good", "bad"):
        await hooks.add(f"http://{host}/", "", [], ANN)
    return hooks


async def alias(registry: ModelRegistry, *names: str) -> None:
    for name in names:
        await registry.set_alias("fraud", name, 1, ANN)


async def test_deliveries_are_listed_with_what_became_of_them(
    registry: ModelRegistry, hooks: Webhooks, clock: Clock
) -> None:
    await alias(registry, "champion")
    good, bad = sorted(await hooks.deliveries(), key=lambda each: each.webhook)
    assert (good.state, good.attempts, good.next, good.error) == ("waiting", 0, clock.now, "")
    assert (good.action, good.model, good.subject) == ("alias.moved", "fraud", "champion")
    deliverer = Deliverer(registry.ledger, Receivers(bad=503), clock)
    assert await deliverer.once() == 1
    (told,) = await hooks.deliveries(state="told")
    (failing,) = await hooks.deliveries(bad.webhook)
    assert (told.webhook, told.ended, told.next) == (good.webhook, clock.now, None)
    assert (failing.state, failing.attempts, failing.error) == ("failing", 1, "status 503")
    assert (failing.next, failing.ended) == (clock.now + 5, None)
    assert [failing] == await hooks.deliveries(state="failing")
    for _ in range(11):
        clock.now += 3600
        assert await deliverer.once() == 0
    (given_up,) = await hooks.deliveries(state="given_up")
    assert (given_up.id, given_up.attempts, given_up.ended) == (bad.id, 12, clock.now)
    assert await hooks.deliveries(state="failing") == await hooks.deliveries(state="waiting") == []


async def test_the_words_of_a_failure_are_kept_as_text(
    registry: ModelRegistry, hooks: Webhooks, clock: Clock
) -> None:
    """Or PostgreSQL would refuse them, and whoever answers so would be told again and again."""
    await alias(registry, "champion")
    receivers = Receivers(bad=OSError("no answer in HTTP: BadStatusLine \0\x1b[31m"))
    assert await Deliverer(registry.ledger, receivers, clock).once() == 1
    (failing,) = await hooks.deliveries(state="failing")
    assert (failing.attempts, failing.error) == (1, "no answer in HTTP: BadStatusLine ??[31m")


async def test_pages_of_deliveries_are_turned(registry: ModelRegistry, hooks: Webhooks) -> None:
    await alias(registry, *(f"a{number}" for number in range(5)))
    whole = await hooks.deliveries("hook1")
    assert [each.subject for each in whole] == ["a4", "a3", "a2", "a1", "a0"]
    first = await hooks.deliveries("hook1", most=2)
    assert first == whole[:2]
    assert await hooks.deliveries("hook1", before=first[-1].id) == whole[2:]


async def test_what_was_given_up_is_told_anew_when_somebody_asks(
    registry: ModelRegistry, hooks: Webhooks, clock: Clock
) -> None:
    await alias(registry, "champion")
    receivers = Receivers(bad=OSError("refused"))
    deliverer = Deliverer(registry.ledger, receivers, clock)
    for _ in range(12):
        await deliverer.once()
        clock.now += 3600
    (given_up,) = await hooks.deliveries(state="given_up")
    again = await hooks.redeliver(given_up.id)
    assert (again.state, again.attempts, again.next, again.error) == ("waiting", 0, clock.now, "")
    receivers.answers.clear()
    assert await deliverer.once() == 1
    assert receivers.told[-1] == ("bad", f"msg_{given_up.id}")
    assert {each.state for each in await hooks.deliveries()} == {"told"}
    with pytest.raises(NotFound, match="no delivery 77"):
        await hooks.redeliver(77)
    await hooks.remove(given_up.webhook, ANN)
    with pytest.raises(NotFound, match="its webhook has been removed"):
        await hooks.redeliver(given_up.id)


async def test_what_was_told_is_kept_for_thirty_days_though_its_webhook_is_removed(
    registry: ModelRegistry, hooks: Webhooks, clock: Clock
) -> None:
    deliverer = Deliverer(registry.ledger, Receivers(bad=503), clock)
    await alias(registry, "first")
    await deliverer.once()
    for id in ("hook1", "hook2"):
        await hooks.remove(id, ANN)
    assert [(each.webhook, each.state) for each in await hooks.deliveries()] == [("hook1", "told")]
    await hooks.add("http://good/", "", [], ANN)
    left = {}
    for name, days in (("second", 29), ("third", 2)):
        clock.now += days * 86_400
        await alias(registry, name)
        await deliverer.once()
        left[name] = [each.subject for each in await hooks.deliveries()]
    assert left == {"second": ["second", "first"], "third": ["third", "second"]}


async def test_of_a_dead_receiver_one_delivery_a_round_is_tried_and_the_others_are_told_all(
    registry: ModelRegistry, hooks: Webhooks, clock: Clock
) -> None:
    await alias(registry, *(f"a{number}" for number in range(40)))
    receivers = Receivers(bad=OSError("no route"))
    assert await Deliverer(registry.ledger, receivers, clock).once() == 32
    hosts = [host for host, _ in receivers.told]
    assert (hosts.count("good"), hosts.count("bad")) == (32, 1)
    assert await Deliverer(registry.ledger, receivers, clock).once() == 8
    good = [int(id.removeprefix("msg_")) for host, id in receivers.told if host == "good"]
    assert good == sorted(good)
    assert len(good) == 40


async def test_a_slow_receiver_is_not_told_beyond_the_lease(
    registry: ModelRegistry, hooks: Webhooks, clock: Clock
) -> None:
    """Another server would take what the first one has not come to, and tell it a second time."""
    await hooks.remove("hook2", ANN)
    await alias(registry, *(f"a{number}" for number in range(10)))
    told: list[str] = []

    async def slow(url: str, headers: Mapping[str, str], body: bytes) -> int:
        clock.now += 9
        told.append(headers["webhook-id"])
        return 200

    assert await Deliverer(registry.ledger, slow, clock).once() == 4
    assert len(told) == 4
    assert len(await hooks.deliveries(state="waiting")) == 6
    assert await Deliverer(registry.ledger, slow, clock).once() == 4
    assert len(set(told)) == 8


async def test_a_clock_that_is_put_back_holds_no_delivery_up(
    registry: ModelRegistry, hooks: Webhooks, clock: Clock
) -> None:
    clock.now += 10 * 365 * 86_400
    await alias(registry, "champion")
    clock.now -= 10 * 365 * 86_400
    assert await Deliverer(registry.ledger, Receivers(), clock).once() == 2


async def test_what_was_told_a_month_ago_goes(registry: ModelRegistry, hooks: Webhooks, clock: Clock) -> None:
    await alias(registry, "champion")
    deliverer = Deliverer(registry.ledger, Receivers(bad=500), clock)
    await deliverer.once()
    clock.now += 31 * 86_400
    await alias(registry, "next")
    await deliverer.once()
    count = await registry.ledger.read(lambda c: c.scalar(select(func.count()).select_from(DELIVERY)))
    assert count == 3  # the told one is gone, the failing one is not


@pytest.mark.parametrize("url", ["http://h:99999999/", "http://[::1/", "http://h/\x01", "http:///x"])
async def test_no_webhook_is_taken_that_can_never_be_told(hooks: Webhooks, url: str) -> None:
    with pytest.raises(InvalidInput, match="needs an HTTP URL"):
        await hooks.add(url, "", [], ANN)


@contextlib.contextmanager
def answering(*pieces: bytes, ends: bool = True) -> Iterator[tuple[str, list[bytes], threading.Event]]:
    """A server that says this, whatever it is asked, and then ends or says nothing more."""
    heard: list[bytes] = []
    gone = threading.Event()

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(PATIENCE_S)
            heard.append(peer.recv(65536))
            for piece in pieces:
                peer.sendall(piece)
            with contextlib.suppress(OSError):
                while not ends and peer.recv(1000):
                    pass
        gone.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heard, gone
        thread.join(PATIENCE_S)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"]
)
async def test_who_answers_in_no_http_is_a_failure_like_others(said: bytes) -> None:
    with (
        answering(said) as (host, _, _),
        pytest.raises(OSError, match=r"no answer in HTTP|closed connection|reset by peer|Broken pipe"),
    ):
        await post(f"http://{host}/", {}, b"{}")


async def test_who_answers_never_is_left_after_the_time(tmp_path: Path) -> None:
    """And the thread that waits is free again, since the connection is cut."""
    with answering(b"HTTP/1.1 200 OK\r\nx: ", ends=False) as (host, _, gone):
        with pytest.raises(TimeoutError, match="no answer within"):
            await post(f"http://{host}/", {}, b"{}", seconds=0.2)
        assert await asyncio.to_thread(gone.wait, 10)


async def test_a_name_and_password_in_the_url_become_a_header() -> None:
    with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as (host, heard, _):
        assert await post(f"http://ann:p%40w@{host}/x?a=b", {"webhook-id": "m"}, b"{}") == 204
    assert heard[0].startswith(b"POST /x?a=b HTTP/1.1\r\n")
    assert b"Authorization: Basic YW5uOnBAdw==\r\n" in heard[0]
    assert f"Host: {host}\r\n".encode() in heard[0]


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200"])
async def test_nobody_is_asked_where_clouds_hand_out_secrets(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever name leads there: the address of the connection itself counts."""

    class Connected:
        def getpeername(self) -> tuple[str, int]:
            return (address, 80)

        def close(self) -> None:
            """Nothing."""

        def shutdown(self, how: int) -> None:
            """Nothing."""

        def setsockopt(self, *_: int) -> None:
            """Nothing."""

        def sendall(self, data: bytes) -> None:
            raise AssertionError("it was asked")

    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: Connected())
    with pytest.raises(OSError, match="which is not allowed"):
        await post("http://innocent.example/", {}, b"{}")
