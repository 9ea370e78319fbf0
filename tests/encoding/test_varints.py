"""Packed numbers against protobuf's own reading and writing of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.tensorflow.tf_schema import build, build_unread
from salver.encoding import varints

_NUMBERS = st.lists(
    st.one_of(
        st.integers(0, 2**64 - 1), st.integers(0, 300), st.sampled_from([0, 127, 128, 2**63, 2**64 - 1])
    ),
    max_size=60,
)


def _raw(numbers: list[int]) -> bytes:
    message = build()["TensorProto"](uint64_val=numbers).SerializeToString()
    return b"".join(build_unread()["TensorProto"].FromString(message).uint64_val)


@given(_NUMBERS)
def test_numbers_are_read_as_protobuf_wrote_them(numbers: list[int]) -> None:
    assert varints.unpack(_raw(numbers)).tolist() == numbers


@given(_NUMBERS)
def test_numbers_are_written_as_protobuf_writes_them(numbers: list[int]) -> None:
    assert varints.pack(np.array(numbers, np.uint64)) == _raw(numbers)


@pytest.mark.parametrize("bits", [8, 14, 35, 64])
def test_many_numbers_are_read_and_written_in_blocks(bits: int) -> None:
    random = np.random.default_rng(bits)
    numbers = random.integers(0, 2**bits - 1, 600_001, np.uint64, endpoint=True)
    raw = varints.pack(numbers)
    assert raw == _raw(numbers.tolist())
    np.testing.assert_array_equal(varints.unpack(raw), numbers)


def test_a_number_without_an_end_is_noticed_between_blocks() -> None:
    with pytest.raises(ValueError, match="more than 64 bits"):
        varints.unpack(b"\x01" * ((1 << 18) - 5) + b"\xff" * 5000 + b"\x01")


def test_small_numbers_are_not_copied() -> None:
    assert varints.unpack(bytes(range(100))).dtype == np.uint8


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x80", "cut off"),
        (b"\x01\xff", "cut off"),
        (b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\xff" * 4000 + b"\x01", "more than 64 bits"),
    ],
)
def test_broken_numbers_are_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        varints.unpack(raw)


@given(_NUMBERS)
def test_one_number_as_protobuf_writes_it(numbers: list[int]) -> None:
    assert b"".join(map(varints.one, numbers)) == _raw(numbers)


def test_fields_of_a_message() -> None:
    made = build()["TensorProto"](dtype=1, tensor_content=b"abc", double_val=[1.0], half_val=[300])
    message = made.SerializeToString()
    found = {number: message[begin:end] for number, begin, end in varints.fields(message, 0, len(message))}
    assert (found[1], found[4], len(found[6]), found[13]) == (b"\x01", b"abc", 8, b"\xac\x02")


@given(st.binary(max_size=40))
def test_any_bytes_are_fields_or_refused(message: bytes) -> None:
    at = 0
    try:
        for _, begin, end in varints.fields(message, 0, len(message)):
            assert at < begin <= end <= len(message)
            at = end
    except ValueError:
        pass
    else:
        assert at == len(message)
