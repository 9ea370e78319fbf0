"""Bodies that come in pieces, and limits on them."""

import asyncio
import gzip
import re
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.transport.reading import LARGE, MOST_CHUNKS, read_whole
from salver.words.errors import DeadlineExceeded, InvalidInput, SalverError, TooLarge, Unsupported

CHUNKED = {b"transfer-encoding": b"chunked"}


async def read(
    pieces: list[bytes], headers: dict[bytes, bytes] | None = None, limit: int = 1000, *, leaves: bool = False
) -> bytes | None:
    last = len(pieces) - 1
    messages: Iterator[dict[str, Any]] = iter(
        [
            {"type": "http.request", "body": piece, "more_body": leaves or at < last}
            for at, piece in enumerate(pieces)
        ]
        + [{"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    return await read_whole(await receive(), headers or {}, receive, limit)


@given(pieces=st.lists(st.binary(max_size=20), min_size=1, max_size=20))
async def test_pieces_make_a_whole(pieces: list[bytes]) -> None:
    assert await read(pieces) == b"".join(pieces)


async def test_a_caller_who_leaves_has_sent_nothing() -> None:
    assert await read([b"a", b"b"], leaves=True) is None


@pytest.mark.clause("TR-R28")
@pytest.mark.parametrize("size", [10, 3 * LARGE])
@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
async def test_what_is_compressed_is_inflated(size: int, encoding: bytes, pack: Any) -> None:
    whole = bytes(range(256)) * (size // 256 + 1)
    body = pack(whole, 0)
    found = await read([body[:7], body[7:]], {b"content-encoding": encoding}, 4 * LARGE)
    assert found == whole


@pytest.mark.clause("TR-R28")
async def test_an_unknown_compression() -> None:
    with pytest.raises(Unsupported):
        await read([b"x"], {b"content-encoding": b"br"})


@pytest.mark.clause("TR-R37")
@pytest.mark.parametrize(
    ("headers", "text"),
    [
        (
            {},
            "request JSON size of {} bytes exceeds the maximum allowed input size of 1000 bytes. "
            "Use --http-max-input-size to increase the limit.",
        ),
        (
            {b"inference-header-content-length": b"0"},
            "Raw input has a byte_size ({} bytes) that exceeds the maximum allowed value of 1000 bytes. "
            "Use --http-max-input-size to increase the limit.",
        ),
        (
            {b"inference-header-content-length": b"17"},
            "request body size of {} bytes exceeds the maximum allowed input size of 1000 bytes. "
            "Use --http-max-input-size to increase the limit.",
        ),
    ],
)
async def test_a_body_that_is_too_large(headers: dict[bytes, bytes], text: str) -> None:
    for pieces, said, size in (
        ([b"x" * 600, b"x" * 600, b"x" * 600], {}, 1200),  # known when it is there
        ([b"x"], {b"content-length": b"5000"}, 5000),  # before it is read
    ):
        with pytest.raises(TooLarge) as raised:
            await read(pieces, headers | said)
        assert raised.value.triton == text.format(size)
        assert str(raised.value) == text.format(size).replace("--http-max-input-size", "--max-body-mb")


@pytest.mark.clause("TR-R29")
@pytest.mark.parametrize("pieces", [[b"x" * 1000], [b"x" * 500, b"x" * 500]])
async def test_a_body_may_be_as_large_as_the_limit(pieces: list[bytes]) -> None:
    assert await read(pieces, {b"content-length": b"1000"}) == b"x" * 1000


@pytest.mark.clause("TR-R37")
async def test_too_many_chunks() -> None:
    many = [b"x"] * MOST_CHUNKS
    assert len(await read([*many, b"", b""], CHUNKED, 1 << 20) or b"") == MOST_CHUNKS
    text = "Chunked request body exceeds maximum of 65536 non-empty chunks. Send fewer or larger HTTP chunks."
    with pytest.raises(InvalidInput, match=re.escape(text)):
        await read([*many, b"x"], CHUNKED, 1 << 20)
    assert await read([*many, b"x"], {}, 1 << 20)  # pieces of a body of known size are nobody's chunks


async def test_the_errors_are_the_callers() -> None:
    with pytest.raises(SalverError) as raised:
        await read([b"x" * 2000])
    assert raised.value.code.value == "too_large"


@pytest.mark.parametrize("declared", [0, 2, 3, 4, 9])
async def test_a_body_is_what_comes_whatever_was_declared(declared: int) -> None:
    assert await read([b"a", b"bc"], {b"content-length": b"%d" % declared}) == b"abc"


async def test_others_have_their_turns_while_pieces_that_are_there_are_read() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(others())
    size = 20 * LARGE
    headers = {b"content-length": b"%d" % size}
    assert await read([bytes(LARGE // 4)] * 80, headers, size) == bytes(size)
    turning.cancel()
    assert turns > 10


@pytest.mark.parametrize("size", [0, 2000])
async def test_a_body_has_time_by_what_has_come_of_it(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("salver.transport.budget.PATIENCE_S", 0.01)
    monkeypatch.setattr("salver.transport.budget.LEAST_RATE", 10_000)
    messages = iter([{"type": "http.request", "body": bytes(size), "more_body": True}])

    async def receive() -> dict[str, Any]:
        return next(messages, None) or await asyncio.get_running_loop().create_future()

    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="too slowly"):
        await read_whole(await receive(), {}, receive, 10_000)
    took = time.monotonic() - begin
    assert took >= 0.01 + size / 10_000
