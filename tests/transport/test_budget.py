"""The memory that all bodies hold together."""

import gzip
import json
import os
import zlib
from typing import Any

import pytest

from salver.transport.budget import COUNTED, Budget, Share
from salver.transport.compression import FREE, MOST_TIMES, Inflater, ceiling, inflate
from salver.words.errors import InvalidInput, Overloaded, TooLarge


def test_shares_take_and_give_back() -> None:
    budget = Budget(100)
    one, other = Share(budget), Share(budget)
    one.take(60)
    other.take(40)
    with pytest.raises(Overloaded, match="hold 100 of 100 bytes"):
        other.take(1)
    one.give(10)
    other.take(10)
    one.free()
    other.free()
    assert budget.held == 0


def test_what_can_never_fit_is_refused_for_good() -> None:
    with pytest.raises(TooLarge, match="--max-bodies-mb"):
        Share(Budget(100)).take(101)


def test_the_usual_budget_is_a_part_of_the_machine() -> None:
    assert Budget().most >= 256 << 20


async def test_an_inflated_body_counts_as_what_it_is() -> None:
    budget = Budget(64 << 20)
    share = Share(budget)
    assert await share.inflate(gzip.compress(b"ab" * 1000), "gzip", 1 << 20) == b"ab" * 1000
    assert share.size == 2000
    large = bytes(range(256)) * 8000
    assert await share.inflate(gzip.compress(large, 0), "gzip", 4 << 20) == large
    assert share.size == 2000 + len(large)
    share.free()
    assert budget.held == 0


async def test_many_bombs_at_once_are_refused_before_they_are_inflated() -> None:
    bomb = gzip.compress(bytes(60 << 20))
    budget = Budget(3 * FREE)
    shares = [Share(budget) for _ in range(4)]
    for share in shares[:3]:
        with pytest.raises(TooLarge, match=f"more than {MOST_TIMES} times its size"):
            await share.inflate(bomb, "gzip", 64 << 20)
    with pytest.raises(Overloaded):
        await shares[3].inflate(bomb, "gzip", 64 << 20)
    for share in shares:
        share.free()
    assert budget.held == 0


def test_a_body_may_inflate_to_so_many_times_its_size() -> None:
    assert ceiling(10, 1000) == 1000
    assert ceiling(10, 64 << 20) == FREE
    assert ceiling(1 << 20, 64 << 20) == 64 << 20
    assert len(inflate(gzip.compress(bytes(FREE)), "gzip", 64 << 20)) == FREE
    with pytest.raises(TooLarge, match="times its size"):
        inflate(gzip.compress(bytes(FREE + 1)), "gzip", 64 << 20)


def test_no_piece_is_large() -> None:
    machine = Inflater(gzip.compress(bytes(1 << 20)), "gzip", 64 << 20)
    steps = 0
    while not machine.step():
        steps += 1
    assert steps >= 3
    assert machine.data() == bytes(1 << 20)


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_body_that_is_not_whole(cut: int) -> None:
    with pytest.raises(InvalidInput):
        inflate(gzip.compress(b"some text" * 100)[:-cut], "gzip", 64 << 20)


async def _ask(
    front: Any, body: bytes, path: str = "/v2/models/m/infer"
) -> tuple[int, dict[bytes, bytes], Any]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": [],
        "http_version": "2",
    }  # fmt: skip
    await front(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


async def test_callers_are_told_to_come_back() -> None:
    from fronts import FrontRig

    async with FrontRig(max_body=1 << 20) as rig:
        budget = rig.front._budget
        Share(budget).take(budget.most - 10)
        status, headers, told = await _ask(rig.front, b" " * (COUNTED + 1))
        assert (status, headers[b"retry-after"]) == (503, b"1")
        assert "bodies of other requests" in told["error"]


async def test_settings_take_no_large_body() -> None:
    from fronts import FrontRig

    async with FrontRig(max_body=1 << 20) as rig:
        status, _, told = await _ask(rig.front, b" " * (COUNTED + 1), "/v2/logging")
        assert status == 400
        assert f"at most {COUNTED}" in told["error"]


def test_what_is_left_of_a_large_body_is_not_copied_with_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    body, sizes = os.urandom(3 << 20), list[int]()

    class Spy:
        def __init__(self, wbits: int) -> None:
            self._real = zlib_decompressobj(wbits)

        def decompress(self, data: bytes, most: int) -> bytes:
            sizes.append(len(data))
            return self._real.decompress(data, most)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    zlib_decompressobj = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Spy)
    assert inflate(gzip.compress(body), "gzip", 1 << 30) == body
    assert max(sizes) <= 1 << 18
    with pytest.raises(InvalidInput, match="bytes follow its end"):
        inflate(gzip.compress(b"a" * 300) + bytes(1 << 20), "gzip", 1 << 30)
