"""Texts of floats: the fast algorithm against the plain rule, and that against C's."""

import math
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salver.dialects.tensorflow.decimals import BETWEEN, decimal, decimals

_BITS = st.integers(0, 2**32 - 1)


def plain(value: float, *, is_single: bool) -> str:
    """The rule, written from its description and not from the code."""
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = "%g" % value  # noqa: UP031 - C's own words
    read = struct.unpack("f", struct.pack("f", float(text)))[0] if is_single else float(text)
    if read != value:
        text = ("%.9g" if is_single else "%.17g") % value
    return text if set(text) & set(".e") else text + ".0"


def written(array: np.ndarray) -> list[str]:
    return decimals(array).decode().split(BETWEEN.decode())


@pytest.mark.clause("TF-R14")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2.0"),
        (9000000.0, "9e+06"),
        (999999.0, "999999.0"),
        (0.5, "0.5"),
        (0.0003, "0.0003"),
        (0.00003, "3e-05"),
        (555557.5, "555557.5"),
        (0.2, "0.2"),
        (1 / 3, "0.333333343"),
        (16777216.0, "16777216.0"),
        (-0.0, "-0.0"),
        (1e-45, "1.4013e-45"),
        (3.4028235e38, "3.40282347e+38"),
        (123456789.0, "123456792.0"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
    ],
)
def test_float32(value: float, text: str) -> None:
    single = np.float32(value)
    assert decimal(single) == text
    assert written(np.full(80, single)) == [text] * 80


@pytest.mark.clause("TF-R14")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1 / 3, "0.33333333333333331"),
        (1e6, "1e+06"),
        (1234567.0, "1234567.0"),
        (5e-324, "4.94066e-324"),
        (-0.0, "-0.0"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        (math.pi, "3.1415926535897931"),
        (-0.00031415926535897931, "-0.00031415926535897931"),
        (3.1415926535897933e-05, "3.1415926535897935e-05"),
        (12345678901234568.0, "12345678901234568.0"),
        (123456789012345680.0, "1.2345678901234568e+17"),
        (1234567890123456.25, "1234567890123456.2"),  # a tie
        (1e23, "1e+23"),
        (9.9999999999999975e22, "9.9999999999999975e+22"),
        (1e99, "1e+99"),
        (3.1415926535897933e99, "3.1415926535897933e+99"),
        (3.1415926535897933e-99, "3.1415926535897934e-99"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
    ],
)
def test_float64(value: float, text: str) -> None:
    assert decimal(value) == text
    assert written(np.full(4, value)) == [text] * 4
    assert written(np.append(np.full(80, value), np.ones(120))) == [text] * 80 + ["1.0"] * 120


@pytest.mark.clause("TF-R14")
@given(st.lists(_BITS, min_size=1, max_size=200))
@example([0x4B000000 + n for n in range(100)])  # whole numbers just above 2^23
@example([exponent << 23 for exponent in range(256)])  # powers of two
@example([0x80000000, 0, 1, 0x7F800001, 0x7FC00000, 0x7F800000, 0xFF800000] * 5)
def test_every_float32_is_written_by_the_rule(bits: list[int]) -> None:
    array = np.array(bits, np.uint32).view(np.float32)
    wanted = [plain(float(value), is_single=True) for value in array]
    assert written(array) == wanted
    assert written(np.concatenate([array] * 25))[: len(wanted)] == wanted


@pytest.mark.clause("TF-R14")
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=100))
@example([exponent << 52 for exponent in range(2048)])  # powers of two
@example([(exponent << 52) - 1 for exponent in range(1, 2048)])
@example(
    [
        int(np.float64(f"1e{power}").view(np.uint64)) + step
        for power in range(-320, 309)
        for step in (-1, 0, 1)
    ]
)
@example([0x4320000000000000 + n for n in range(300)])  # just above 2^51: halves
def test_every_float64_is_written_by_the_rule(bits: list[int]) -> None:
    array = np.array(bits, np.uint64).view(np.float64)
    wanted = [plain(value, is_single=False) for value in array.tolist()]
    assert written(array) == wanted
    among = np.concatenate([array, np.full(200 + array.size, 0.5)])  # so many others that it is done fast
    assert written(among)[: len(wanted)] == wanted


@pytest.mark.clause("TF-R14")
@given(
    st.lists(
        st.tuples(st.integers(-(10**9), 10**9), st.integers(-44, 30)).map(
            lambda pair: pair[0] * 10.0 ** pair[1]
        ),
        min_size=70,
        max_size=200,
    )
)
def test_short_decimals_are_written_by_the_rule(values: list[float]) -> None:
    with np.errstate(over="ignore"):
        array = np.array(values).astype(np.float32)
    assert written(array) == [plain(float(value), is_single=True) for value in array]
    assert written(np.array(values)) == [plain(value, is_single=False) for value in values]


@pytest.mark.clause("TF-R14")
def test_many_of_each_kind() -> None:
    rng = np.random.default_rng(14)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near_ties = (
        (rng.integers(10**8, 10**9, 20_000) * 10 + 5) * 10.0 ** rng.integers(-20, 20, 20_000)
    ).astype("f4")
    for array in (
        bits,
        near_ties,
        rng.random(20_000, np.float32),
        rng.integers(-(2**27), 2**27, 20_000).astype("f4"),
    ):
        assert written(array) == [plain(float(value), is_single=True) for value in array]


@pytest.mark.clause("TF-R14")
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=70, max_size=100))
def test_what_is_written_reads_back(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert np.array([float(text) for text in written(array)], np.float32).tolist() == array.tolist()


@pytest.mark.clause("TF-R14")
def test_many_float64_of_each_kind() -> None:
    rng = np.random.default_rng(14)
    scale = 10.0 ** rng.integers(-98, 98, 20_000)
    for array in (
        rng.standard_normal(20_000),
        rng.standard_normal(20_000) * scale,
        rng.integers(-(10**6), 10**6, 20_000) * scale,  # most are six digits, or nearly
        rng.integers(-(2**62), 2**62, 20_000).astype("f8"),
        rng.integers(-(10**17), 10**17, 20_000) / 8,
        np.round(rng.standard_normal(20_000), 6),
        rng.standard_normal(20_000).astype("f4").astype("f8"),
    ):
        assert written(array) == [plain(value, is_single=False) for value in array.tolist()]


@pytest.mark.clause("TF-R14")
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=130, max_size=200))
def test_what_is_written_of_float64_reads_back(values: list[float]) -> None:
    assert [float(text) for text in written(np.array(values))] == values
