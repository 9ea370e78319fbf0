"""gRPC messages that leave compressed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.transport.compression import WORTHWHILE
from salver.transport.grpc_frames import FrameReader, encoding_for, frame


@pytest.mark.clause("TR-G12")
@given(
    message=st.binary(max_size=400),
    encoding=st.sampled_from(["", "gzip", "deflate"]),
    level=st.integers(1, 9),
)
def test_what_is_compressed_is_read_again(message: bytes, encoding: str, level: int) -> None:
    framed = frame(message, encoding, level)
    assert framed[0] == bool(encoding and len(message) >= WORTHWHILE)
    assert FrameReader(1000, encoding or "identity").feed(framed) == [message]


@pytest.mark.clause("TR-G12")
def test_it_is_smaller() -> None:
    assert len(frame(bytes(10_000), "gzip", 1)) < 200


@pytest.mark.clause("TR-G12")
@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (b"identity, deflate, gzip", "gzip"),
        (b"gzip,identity", "gzip"),
        (b"identity,deflate", "deflate"),
        (b"identity", ""),
        (b"", ""),
        (b"zstd, xgzip", ""),
    ],
)
def test_what_a_caller_can_read(accepted: bytes, encoding: str) -> None:
    assert encoding_for(accepted) == encoding
