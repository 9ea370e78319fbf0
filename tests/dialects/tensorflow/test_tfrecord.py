"""TFRecord files: TensorFlow's own, whole and broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.tensorflow.tfrecord import crc32c, record, records
from salver.words.errors import InvalidInput

#: What ``tf.io.TFRecordWriter`` (2.21) wrote of b"hello", b"" and bytes(range(256)) * 5.
WRITTEN = (
    bytes.fromhex("0500000000000000eab2043e68656c6c6fbb1f1c19000000000000000029039807d8ea82a2")
    + bytes.fromhex("00050000000000006e6ea959")
    + bytes(range(256)) * 5
    + bytes.fromhex("4432b3fb")
)


def bit_by_bit(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_of_the_standard(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


@given(st.binary(max_size=40), st.sampled_from([0, 471, 16383, 16384, 16385, 20000, 40000]))
def test_long_data_by_blocks_have_the_checksum_of_their_bits(data: bytes, length: int) -> None:
    whole = (data * length)[:length] + data
    assert crc32c(whole) == bit_by_bit(whole)


@pytest.mark.clause("TF-L9")
def test_the_framing_is_tensorflows_own() -> None:
    told = [b"hello", b"", bytes(range(256)) * 5]
    assert list(records(WRITTEN)) == told
    assert b"".join(map(record, told)) == WRITTEN


@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_what_is_written_is_read(told: list[bytes]) -> None:
    assert list(records(b"".join(map(record, told)))) == told


@given(st.data())
def test_no_damage_goes_unseen(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(WRITTEN) - 1))
    change = data.draw(st.integers(1, 255))
    broken = WRITTEN[:at] + bytes([WRITTEN[at] ^ change]) + WRITTEN[at + 1 :]
    with pytest.raises(InvalidInput, match=r"record [0-2] at byte \d+ is (damaged|cut off)"):
        list(records(broken))


@given(st.integers(1, len(WRITTEN) - 1))
def test_a_file_that_is_cut_off_says_where(length: int) -> None:
    starts = [0, 21, 37]
    if length in starts:
        assert len(list(records(WRITTEN[:length]))) == starts.index(length)
        return
    with pytest.raises(InvalidInput, match=r"record [0-2] at byte \d+ is cut off"):
        list(records(WRITTEN[:length]))


def test_another_file_is_called_one() -> None:
    with pytest.raises(InvalidInput, match="or this is no TFRecord file"):
        list(records(b"not a record at all"))
