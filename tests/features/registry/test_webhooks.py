"""Is everybody told of what they asked for, at least once, signed, and are secrets kept?"""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from registries import ANN, Clock, counted, found
from sqlalchemy import select
from waiting import PATIENCE_S

from salver.features.ledger.schema import DELIVERY, WEBHOOK
from salver.features.registry.deliveries import Deliverer, signature
from salver.features.registry.posting import post
from salver.features.registry.records import NewVersion
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.webhooks import Webhooks
from salver.words.errors import InvalidInput, NotFound


class Receiver:
    """Notes what it is told, and answers as it is told to."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Mapping[str, str], bytes]] = []
        self.status: int | Exception = 200

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        self.told.append((url, headers, body))
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, _, body in self.told]


def webhooks(registry: ModelRegistry, clock: Clock) -> Webhooks:
    return Webhooks(registry.ledger, clock, counted("hook").__next__, lambda count: bytes(range(count)))


async def push(registry: ModelRegistry, folder: Path, model: str = "fraud", alias: str = "") -> None:
    await registry.push(NewVersion(model, alias=alias, why="new data"), found(folder / "new"), ANN)


async def test_what_was_asked_for_is_told_and_signed(
    registry: ModelRegistry, clock: Clock, tmp_path: Path
) -> None:
    hooks, receiver = webhooks(registry, clock), Receiver()
    _, secret = await hooks.add("https://ann:pw@h.example/x?key=1", "fraud", ["alias.moved"], ANN)
    await push(registry, tmp_path, "other", "champion")
    await push(registry, tmp_path, "fraud", "champion")
    deliverer = Deliverer(registry.ledger, receiver, clock)
    assert await deliverer.once() == 1
    assert await deliverer.once() == 0
    ((url, headers, body),) = receiver.told
    assert url == "https://ann:pw@h.example/x?key=1"
    told = json.loads(body)
    assert told["type"] == "alias.moved"
    assert (told["data"]["model"], told["data"]["subject"], told["data"]["after"]) == (
        "fraud",
        "champion",
        "1",
    )
    assert (told["data"]["actor"], told["data"]["why"], told["timestamp"]) == ("ann", "new data", clock.now)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    assert headers["webhook-timestamp"] == str(int(clock.now))


async def test_a_receiver_may_bring_its_secret(registry: ModelRegistry, clock: Clock, tmp_path: Path) -> None:
    hooks, receiver = webhooks(registry, clock), Receiver()
    own = "whsec_" + base64.b64encode(b"r" * 24).decode()
    _, told = await hooks.add("http://h.example/", "fraud", ["alias.moved"], ANN, "", own)
    assert told == "", "it is not told again"
    await push(registry, tmp_path, "fraud", "champion")
    assert await Deliverer(registry.ledger, receiver, clock).once() == 1
    ((_, headers, body),) = receiver.told
    signed = signature(own, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert headers["webhook-signature"] == signed
    for wrong in ("whsec_", "whsec_c2hvcnQ=", own.removeprefix("whsec_"), own + "!", "whsec_" + "A" * 120):
        with pytest.raises(InvalidInput, match="24 to 64 bytes") as caught:
            await hooks.add("http://h.example/", "", [], ANN, "", wrong)
        assert wrong not in str(caught.value) or wrong == "whsec_"


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of standardwebhooks.com and of its libraries' tests."""
    secret, id, time = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
    body = b'{"test": 2432232314}'
    assert signature(secret, id, time, body) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_whoever_does_not_answer_is_asked_again_later_and_given_up_at_last(
    registry: ModelRegistry, clock: Clock, tmp_path: Path
) -> None:
    hooks, receiver = webhooks(registry, clock), Receiver()
    await hooks.add("http://h.example", "", ["version.pushed"], ANN)
    await push(registry, tmp_path)
    deliverer = Deliverer(registry.ledger, receiver, clock)
    pauses = []
    for number in range(12):
        receiver.status = 500 if number % 2 else OSError("refused")
        assert await deliverer.once() == 0
        assert len(receiver.told) == number + 1
        assert await deliverer.once() == 0  # not before its time
        assert len(receiver.told) == number + 1
        row = await registry.ledger.read(lambda c: c.execute(select(DELIVERY)).one())
        pauses.append(row.due - clock.now)
        clock.now = row.due
    assert pauses[:4] == [5, 10, 20, 40]
    assert max(pauses) == 3600
    assert row.done is not None
    assert row.error == "status 500"
    clock.now += 10_000
    assert await deliverer.once() == 0
    assert len(receiver.told) == 12
    assert len({headers["webhook-id"] for _, headers, _ in receiver.told}) == 1


async def test_two_servers_do_not_tell_twice(registry: ModelRegistry, clock: Clock, tmp_path: Path) -> None:
    hooks = webhooks(registry, clock)
    await hooks.add("http://h.example", "", [], ANN)
    await push(registry, tmp_path)
    other = Receiver()

    async def slow(url: str, headers: Mapping[str, str], body: bytes) -> int:
        assert await Deliverer(registry.ledger, other, clock).once() == 0
        return 204

    assert await Deliverer(registry.ledger, slow, clock).once() == 1
    assert other.told == []


async def test_what_a_killed_server_took_is_told_by_another_after_a_minute(
    registry: ModelRegistry, clock: Clock, tmp_path: Path
) -> None:
    hooks, receiver = webhooks(registry, clock), Receiver()
    await hooks.add("http://h.example", "", [], ANN)
    await push(registry, tmp_path)

    async def killed(*_: object) -> int:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Deliverer(registry.ledger, killed, clock).once()
    deliverer = Deliverer(registry.ledger, receiver, clock)
    assert await deliverer.once() == 0
    clock.now += 61
    assert await deliverer.once() == 1
    assert receiver.types == ["version.pushed"]


async def test_secrets_are_shown_once_and_addresses_not_in_the_history(
    registry: ModelRegistry, clock: Clock
) -> None:
    hooks = webhooks(registry, clock)
    webhook, secret = await hooks.add("https://ann:pw@h.example:8443/x?key=1", "", [], ANN)
    assert secret.startswith("whsec_")
    assert [webhook] == list(await hooks.list())
    assert secret not in repr(await hooks.list())
    (entry,) = await registry.history()
    assert (entry.action, entry.after) == ("webhook.added", "https://h.example:8443/…")
    await hooks.remove(webhook.id, ANN)
    assert await hooks.list() == ()
    with pytest.raises(NotFound, match="no webhook"):
        await hooks.remove(webhook.id, ANN)
    assert await registry.ledger.read(lambda c: c.execute(select(WEBHOOK)).all()) == []


@pytest.mark.parametrize(
    ("url", "event"),
    [("ftp://h/x", ""), ("file:///etc/passwd", ""), ("https://", ""), ("https://h", "alias.gone")],
)
async def test_only_addresses_of_http_and_events_that_there_are(
    registry: ModelRegistry, clock: Clock, url: str, event: str
) -> None:
    with pytest.raises(InvalidInput):
        await webhooks(registry, clock).add(url, "", [event] if event else [], ANN)


class Handler(BaseHTTPRequestHandler):
    heard: ClassVar[list[tuple[str, str | None, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.heard.append((self.path, self.headers["webhook-id"], body))
        status = int(self.path.removeprefix("/"))
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/200")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


async def test_a_real_post_tells_the_status_and_follows_nobody() -> None:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        for status in (200, 204, 302, 404, 500):
            assert await post(f"{base}/{status}", {"webhook-id": "m"}, b"body") == status
        assert Handler.heard == [(f"/{status}", "m", b"body") for status in (200, 204, 302, 404, 500)]
    finally:
        server.shutdown()
        thread.join(PATIENCE_S)
        server.server_close()
    with pytest.raises(OSError, match="refused"):
        await post(f"{base}/200", {}, b"")
    with pytest.raises(ValueError, match="no URL of HTTP"):
        await post("file:///etc/passwd", {}, b"")
