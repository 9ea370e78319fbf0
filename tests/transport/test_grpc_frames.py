import gzip
import urllib.parse
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.transport.grpc_frames import FrameReader, encode_message, frame, parse_timeout
from salver.words.errors import InvalidInput, TooLarge, Unsupported


@given(st.lists(st.binary(max_size=30), max_size=5), st.lists(st.integers(0, 200), max_size=8))
def test_messages_come_out_whole_however_they_were_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, messages))
    reader, got, last = FrameReader(100), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        got += reader.feed(stream[last:cut])
        last = max(last, cut)
    assert got == messages
    assert reader.is_empty


def test_a_cut_message_is_noticed() -> None:
    reader = FrameReader(100)
    assert reader.feed(frame(b"abc")[:-1]) == []
    assert not reader.is_empty


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed(encoding: str) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](b"a" * 100)
    flagged = b"\1" + frame(packed)[1:]
    assert FrameReader(100, encoding).feed(flagged) == [b"a" * 100]
    assert FrameReader(100, encoding).feed(frame(b"plain")) == [b"plain"]
    with pytest.raises(TooLarge, match="more than the maximum of 99 bytes"):
        FrameReader(99, encoding).feed(flagged)
    with pytest.raises(InvalidInput, match="marked compressed, but the call names no grpc-encoding"):
        FrameReader(100).feed(flagged)
    with pytest.raises(Unsupported, match="grpc-encoding 'snappy' is not supported"):
        FrameReader(100, "snappy").feed(flagged)


def test_refusals() -> None:
    with pytest.raises(TooLarge, match=r"larger than max \(101 vs. 100\)"):
        FrameReader(100).feed(frame(b"a" * 101)[:5])
    with pytest.raises(InvalidInput, match="begins with 7"):
        FrameReader(100).feed(b"\7\0\0\0\0")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2S", 2),
        ("100m", 0.1),
        ("1u", 1e-6),
        ("5n", 5e-9),
        ("3M", 180),
        ("1H", 3600),
        ("99999999n", 0.099999999),
    ],
)
def test_timeout(text: str, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "1", "-1S", "1.5S", "123456789S", "1s", "1 S", "٣S", "1S\n"])
def test_timeout_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="grpc-timeout"):
        parse_timeout(text)


@given(st.text())
def test_message_reads_back(text: str) -> None:
    raw = encode_message(text)
    assert raw.isascii()
    assert b"\n" not in raw
    assert urllib.parse.unquote(raw.decode()) == text.encode("utf-8", "replace").decode()
