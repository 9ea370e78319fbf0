"""Faults, compression, trace context, and metadata."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.oip import metadata
from salver.dialects.oip.faults import OIP_GRPC, OIP_HTTP, grpc_status, http_fault
from salver.dialects.openai.model_list import list_models
from salver.dialects.tensorflow.faults import KSERVE_V1, tfs_fault
from salver.dialects.triton.repository_calls import index, parse_index
from salver.encoding.bodies import GrpcStatus, HttpReply
from salver.encoding.json_text import is_too_deep
from salver.encoding.model_entries import INDEX_STATE
from salver.transport.compression import choose, deflate, inflate
from salver.words import traceparent
from salver.words.errors import Code, InvalidInput, Overloaded, SalverError, TooLarge, Unsupported
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus
from salver.words.tensor import DataType


@pytest.mark.parametrize("table", [OIP_HTTP, OIP_GRPC, KSERVE_V1])
def test_tables_are_total(table: dict[Code, int]) -> None:
    assert set(table) == set(Code)


def test_a_full_queue_says_when_to_come_back() -> None:
    reply = http_fault(Overloaded("Exceeds maximum queue size"))
    assert (reply.status, dict(reply.headers)[b"retry-after"]) == (503, b"1")
    assert reply.body == b'{"error":"Exceeds maximum queue size"}'
    assert b"retry-after" not in dict(http_fault(SalverError("x")).headers)
    assert grpc_status(Overloaded("x")) == GrpcStatus(14, "x", 1000)
    assert grpc_status(SalverError("x")).pushback_ms == 0


@pytest.mark.parametrize(
    ("pause", "seconds", "milliseconds"),
    [
        (0.0, b"1", 1),
        (0.0301, b"1", 31),
        (1.0, b"1", 1000),
        (1.2, b"2", 1200),
        (1e300, b"86400", 86_400_000),
        (-5.0, b"1", 1),
        (float("inf"), b"86400", 86_400_000),
        (float("nan"), b"1", 1),
    ],
)
@pytest.mark.parametrize("fault", [http_fault, tfs_fault])
def test_when_to_come_back_is_rounded_up(
    pause: float, seconds: bytes, milliseconds: int, fault: Callable[[SalverError], HttpReply]
) -> None:
    error = Overloaded("busy", retry_after=pause)
    assert dict(fault(error).headers)[b"retry-after"] == seconds
    assert grpc_status(error).pushback_ms == milliseconds


@given(st.binary(max_size=600))
def test_compression_reads_back(body: bytes) -> None:
    for accepted in ("gzip", "deflate", "gzip;q=0.5, deflate;q=0.7", "identity", "br", ""):
        encoding, packed = deflate(body, accepted)
        assert (inflate(packed, encoding, 600) if encoding else packed) == body
    assert inflate(zlib.compress(body), "deflate", 600) == body
    assert inflate(gzip.compress(body), "deflate", 600) == inflate(zlib.compress(body), "gzip", 600) == body
    raw = zlib.compressobj(wbits=-15)
    assert inflate(raw.compress(body) + raw.flush(), "Deflate", 600) == body


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip", "deflate"),
        ("deflate;q=0.2, gzip;q=0.9", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=0.5, identity", ""),
        ("*", ""),
        ("br, zstd", ""),
        ("GZIP ; Q=0.3", "gzip"),
        ("gzip;q=high", ""),
        ("gzip;q=7", ""),
        ("", ""),
    ],
)
def test_accept_encoding(accepted: str, encoding: str) -> None:
    assert choose(accepted) == encoding


def test_a_bomb_is_refused_before_it_inflates() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(TooLarge, match="more than the maximum of 1000 bytes"):
        inflate(bomb, "gzip", 1000)


@pytest.mark.parametrize(
    ("body", "encoding", "kind", "text"),
    [
        (b"x", "br", Unsupported, "Unsupported compression type 'br'"),
        (b"x", "", Unsupported, "Unsupported compression type ''"),
        (b"plain", "gzip", InvalidInput, "failed to decompress the gzip body"),
        (gzip.compress(b"abc", mtime=0)[:-1], "gzip", InvalidInput, "it ends too early"),
        (gzip.compress(b"abc", mtime=0) + b"x", "gzip", InvalidInput, "bytes follow its end"),
        (b"", "deflate", InvalidInput, "it ends too early"),
    ],
)
def test_what_does_not_inflate(body: bytes, encoding: str, kind: type[SalverError], text: str) -> None:
    with pytest.raises(kind, match=text):
        inflate(body, encoding, 100)


_TRACE, _SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_trace_context() -> None:
    header = f"00-{_TRACE}-{_SPAN}-01"
    parent = traceparent.parse(header)
    assert parent is not None
    assert parent.is_sampled
    assert traceparent.format(parent) == header
    child = traceparent.child(parent, "1" * 16)
    assert traceparent.format(child) == f"00-{_TRACE}-{'1' * 16}-01"
    with pytest.raises(ValueError, match="16 lower-case hex digits"):
        traceparent.child(parent, "0" * 16)
    future = traceparent.parse(f"cc-{_TRACE}-{_SPAN}-03-what-ever")
    assert future is not None
    assert traceparent.format(traceparent.child(future, "1" * 16)).startswith("00-")


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}-01-more",
        f"cc-{_TRACE}-{_SPAN}-01more",
        f"00-{_TRACE.upper()}-{_SPAN}-01",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"00-{_TRACE}-{_SPAN}-1",
        f"00-{_TRACE}-{_SPAN}",
        f"00-{_TRACE}-{_SPAN}-0١",
    ],
)
def test_trace_context_ignored(header: str) -> None:
    assert traceparent.parse(header) is None


def test_metadata() -> None:
    x = TensorSpec("x", DataType.BF16, (-1, 3))
    assert metadata.model(ModelId("m", "2"), ["2"], Signature((x,), (), True, "p")) == {
        "name": "m",
        "versions": ["2"],
        "platform": "p",
        "inputs": [{"name": "x", "datatype": "BF16", "shape": [-1, 3]}],
        "outputs": [],
    }
    assert set(INDEX_STATE) == set(State)
    statuses = [VersionStatus(ModelId(n, "1"), s) for n, s in (("b", State.READY), ("a", State.WARMING))]
    assert index(statuses, True) == [{"name": "b", "version": "1", "state": "READY", "reason": ""}]
    assert [entry["state"] for entry in index(statuses)] == ["READY", "LOADING"]
    listed = list_models(statuses, "me", 7)
    assert (listed["object"], listed["models"]) == ("list", ["b"])
    assert listed["data"][0] == {
        "id": "a",
        "object": "model",
        "created": 7,
        "owned_by": "me",
        "ready": False,
        "versions": [{"version": "1", "state": "LOADING", "reason": ""}],
    }
    assert listed["data"][1]["ready"]


def test_repository_bodies() -> None:
    assert parse_index(b"") is False
    assert parse_index(b'{"ready": true}') is True
    with pytest.raises(InvalidInput, match="Invalid value for 'ready': expected a boolean"):
        parse_index(b'{"ready": 1}')
    with pytest.raises(Unsupported, match="'repository_name' specification is not supported"):
        parse_index(b'{"repository_name": "r"}')
    for body in (b"[]", b"{"):
        with pytest.raises(InvalidInput):
            parse_index(body)


@given(st.integers(90, 110), st.sampled_from([b"[", b'{"a":', b'{"[[":']))
def test_depth_is_counted_exactly(depth: int, opening: bytes) -> None:
    assert is_too_deep(opening * depth) == (depth > 100)
