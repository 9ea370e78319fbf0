"""Online curve of hit ratio by size, against exact stack distances."""

import random
import tracemalloc
from bisect import bisect_left
from hashlib import blake2b

import numpy as np
import pytest
from hit_rates import zipf
from hypothesis import given
from hypothesis import strategies as st
from soaking import ONLY, size

from salver.features.cache.reuse import ReuseSampler


def hashed(key):
    return int.from_bytes(blake2b(str(key).encode(), digest_size=4).digest(), "big")


def distances(requests, differ=True):
    """Exact bytes from the last access of each repeated key, itself included, sorted."""
    last, times, sizes, found = {}, [], [], []
    for now, (key, count) in enumerate(requests):
        if key in last:
            at = bisect_left(times, last[key])
            found.append(sum(sizes[at:]) if differ else len(times) - at)
            del times[at], sizes[at]
        times.append(now)
        sizes.append(count)
        last[key] = now
    return sorted(found)


def exact(requests, sizes):
    found = distances(requests, differ=False)
    return np.searchsorted(found, sizes, side="right") / len(requests)


def told(sampler, sizes):
    points = sampler.curve()
    return np.array([max([p.hit_ratio for p in points if p.bytes <= each], default=0.0) for each in sizes])


@pytest.mark.soak
@pytest.mark.parametrize(
    ("items", "exponent"),
    [
        (10_000, 0.8),
        *(pytest.param(*row, marks=ONLY) for row in ((10_000, 1.0), (10_000, 1.2), (50_000, 0.8))),
    ],
)
def test_the_mean_error_is_at_most_a_hundredth(items, exponent):
    count = size(300_000, 60_000)
    drawn = np.random.default_rng(5).choice(items, count, p=zipf(items, exponent)).tolist()
    hashes = [hashed(key) for key in range(items)]
    sampler = ReuseSampler()
    for key in drawn:
        sampler.record(hashes[key], 1000.0)
    assert sampler.rate < 1.0
    sizes = np.geomspace(20_000, 1000 * items, 40)
    found = exact([(key, 1) for key in drawn], sizes / 1000)
    assert np.abs(told(sampler, sizes) - found).mean() <= 0.01


def test_a_sampler_takes_at_most_a_megabyte():
    chance = random.Random(1)
    tracemalloc.start()
    try:
        sampler = ReuseSampler()
        for number in range(15_000):
            sampler.record(chance.getrandbits(32), 1000.0 + number % 7)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most <= 1_000_000


@given(st.lists(st.tuples(st.integers(0, 20), st.just(1)), max_size=80), st.booleans())
def test_all_distances_are_exact_while_every_key_is_followed(requests, differ):
    sizes = [100 + 50 * key * differ for key in range(21)]
    sized = [(key, sizes[key]) for key, _ in requests]
    sampler = ReuseSampler()
    for key, count in sized:
        sampler.record(hashed(key), count)
    found = distances(sized)
    for point in sampler.curve():  # sizes are rounded up by a sixty-fourth at most
        assert point.hit_ratio * len(sized) == pytest.approx(
            np.searchsorted(found, point.bytes, side="right"), abs=1e-6
        ) or point.hit_ratio * len(sized) <= np.searchsorted(found, point.bytes, side="right")
    if found:
        assert sampler.curve()[-1].hit_ratio * len(sized) == pytest.approx(len(found))
    else:
        assert sampler.curve() == []


def test_the_curve_follows_the_traffic():
    sampler = ReuseSampler()
    for number in range(4000):
        sampler.record(hashed(number % 10), 1.0)
    before = sampler.curve()[-1].hit_ratio
    for number in range(4000):
        if not number % 400:
            sampler.fade()
        sampler.record(hashed(("other", number)), 1.0)
    assert before > 0.99
    assert sampler.curve()[-1].hit_ratio < 0.05


def test_an_offered_share_counts_as_a_rate():
    whole, part = ReuseSampler(), ReuseSampler(rate=1 / 4)
    drawn = np.random.default_rng(1).choice(4000, 60_000, p=zipf(4000, 0.7)).tolist()
    for key in drawn:
        whole.record(hashed(key), 10.0)
        if hashed(("other", key)) < 1 << 30:
            part.record(hashed(key), 10.0)
    sizes = np.geomspace(1000, 40_000, 12)
    assert np.abs(told(whole, sizes) - told(part, sizes)).mean() < 0.05
