"""What was added is always known, and little else is; the memory is what was said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from soaking import size

from salver.stats.bloom import Bloom
from salver.stats.exact import clopper_pearson
from salver.words.errors import InvalidInput

_HASHES = st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=60)


def hashes_of(numbers):
    return np.array(numbers, np.uint64)


@given(_HASHES, _HASHES)
def test_what_was_added_is_never_new_again(first, second):
    bloom = Bloom(100, 0.01)
    bloom.add(hashes_of(first))
    bloom.add(hashes_of(second))
    assert not bloom.add(hashes_of(first + second)).any()


def test_a_filter_that_would_be_enormous_is_refused():
    with pytest.raises(InvalidInput, match="bits"):
        Bloom(1 << 29, 0.001)


def test_nothing_is_added_of_nothing():
    bloom = Bloom(100, 0.01)
    assert bloom.add(hashes_of([])).tolist() == []
    assert len(bloom) == 0


@pytest.mark.parametrize("error", [0.1, 0.01, 0.001])
def test_few_are_taken_for_known_at_capacity(error):
    rng = np.random.default_rng(1)
    bloom = Bloom(50_000, error)
    for _ in range(50):
        bloom.add(rng.integers(0, 2**64, 1000, np.uint64))
    wrong = int((~bloom.add(rng.integers(0, 2**64, 20_000, np.uint64))).sum())
    low, _ = clopper_pearson(wrong, 20_000, 0.999)
    assert low <= error * 1.2  # the filter grew by two fifths while it was asked


def test_hashes_that_differ_in_few_bits_are_told_apart():
    bloom = Bloom(100_000, 0.001)
    assert bloom.add(np.arange(100_000, dtype=np.uint64)).mean() > 0.998
    assert bloom.add(np.arange(100_000, dtype=np.uint64) << np.uint64(40)).mean() > 0.99


@pytest.mark.soak
def test_ten_million_units_fit_into_twenty_million_bytes_and_are_told_apart():
    """A tenth of them into a tenth in ``make test``."""
    units = size(10_000_000, 1_000_000)
    rng = np.random.default_rng(2)
    bloom = Bloom(units, 0.001)
    assert bloom.bytes < 2 * units
    for _ in range(units // 10_000):
        bloom.add(rng.integers(0, 2**64, 10_000, np.uint64))
    lost = units - len(bloom)
    assert lost < units * 0.001  # all along the filter was emptier than at its end
    wrong = int((~bloom.add(rng.integers(0, 2**64, 100_000, np.uint64))).sum())
    low, high = clopper_pearson(wrong, 100_000, 0.999)
    assert low <= 0.00105 and high >= 0.0005
