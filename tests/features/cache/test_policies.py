"""Eviction policies: exact counts, plain models of their rules, and what holds for every one of them."""

import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hit_rates import fifo_hit_ratio, lru_hit_ratio, zipf
from hypothesis import given, settings
from hypothesis import strategies as st
from soaking import one_in

from salver.features.cache.local import POLICIES
from salver.features.cache.policies.frame import replay
from salver.features.cache.policies.gdsf import Gdsf
from salver.features.cache.policies.queues import Fifo, Lru
from salver.features.cache.policies.s3fifo import S3Fifo
from salver.features.cache.policies.sieve import Sieve
from salver.features.cache.policies.tinylfu import TinyLfu

EVERY = pytest.mark.parametrize("kind", list(POLICIES.values()), ids=list(POLICIES))


def trace(count=20_000, keys=5_000):
    """Skewed keys of sizes from 100 to 4,099 bytes, the same everywhere."""
    chance = random.Random(7)
    drawn = [int(keys * chance.random() ** 3) for _ in range(count)]
    return [(key, 100 + key * 2654435761 % 2**32 % 4000) for key in drawn]


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        (Fifo, (18814, 17476, 14862, 9758)),
        (Lru, (18600, 17170, 14333, 8987)),
        (Sieve, (17047, 15524, 12982, 8388)),
    ],
)
def test_misses_are_those_of_libcachesim(kind, counts):
    """Counts of libcachesim 0.3.5 for this trace."""
    sizes = (50_000, 200_000, 800_000, 3_200_000)
    assert tuple(replay(kind(size), trace())[0] for size in sizes) == counts


class PlainS3:
    """The rule of S3-FIFO with lists; oldest first, as (key, size, accesses)."""

    def __init__(self, capacity):
        self.capacity, self.small_share = capacity, int(capacity * 0.1)
        self.small, self.main, self.ghost = [], [], []

    def evict(self):
        while True:
            held = sum(entry[1] for entry in self.main)
            if held > self.capacity - self.small_share or not self.small:
                key, size, count = self.main.pop(0)
                if count == 0:
                    return
                self.main.append((key, size, min(count, 3) - 1))
            else:
                key, size, count = self.small.pop(0)
                if count >= 2:
                    self.main.append((key, size, 0))
                    continue
                if size <= int(self.capacity * 0.9):
                    self.ghost.append((key, size))
                while sum(size for _, size in self.ghost) > int(self.capacity * 0.9):
                    self.ghost.pop(0)
                return

    def misses(self, key, size):
        for queue in (self.small, self.main):
            for at, (other, held, count) in enumerate(queue):
                if other == key:
                    queue[at] = (key, held, count + 1)
                    return False
        returns = [entry for entry in self.ghost if entry[0] == key]
        self.ghost = [entry for entry in self.ghost if entry[0] != key]
        if size < self.small_share:
            while sum(entry[1] for entry in self.small + self.main) + size > self.capacity:
                self.evict()
            (self.main if returns else self.small).append((key, size, 0))
        return True


class PlainGdsf:
    """The rule of GDSF with one table of [priority, last access, accesses, size]."""

    def __init__(self, capacity):
        self.capacity, self.clock, self.now, self.held = capacity, 0.0, 0, {}

    def misses(self, key, size):
        self.now += 1
        if key in self.held:
            row = self.held[key]
            row[2] += 1
            row[:2] = self.clock + row[2] * (1.0 / row[3]), self.now
            return False
        if size <= self.capacity:
            while sum(row[3] for row in self.held.values()) + size > self.capacity:
                victim = min(self.held, key=lambda each: self.held[each][:2])
                self.clock = self.held.pop(victim)[0]
            self.held[key] = [self.clock + 1.0 / size, self.now, 1, size]
        return True


class PlainSieve:
    """The rule of SIEVE with a list of [key, size, visited], newest first."""

    def __init__(self, capacity):
        self.capacity, self.queue, self.hand = capacity, [], None

    def misses(self, key, size):
        for entry in self.queue:
            if entry[0] == key:
                entry[2] = True
                return False
        if size <= self.capacity:
            while sum(entry[1] for entry in self.queue) + size > self.capacity:
                at = len(self.queue) - 1
                if self.hand is not None:
                    at = next(i for i, entry in enumerate(self.queue) if entry is self.hand)
                while self.queue[at][2]:
                    self.queue[at][2] = False
                    at = (at - 1) % len(self.queue)
                self.hand = self.queue[at - 1] if at else None
                del self.queue[at]
            self.queue.insert(0, [key, size, False])
        return True


REQUESTS = st.lists(st.integers(0, 25).map(lambda key: (key, 1 + key * 7 % 11)), max_size=200)


@pytest.mark.parametrize(("kind", "plain"), [(S3Fifo, PlainS3), (Gdsf, PlainGdsf), (Sieve, PlainSieve)])
@settings(max_examples=150, deadline=None)
@given(requests=REQUESTS, capacity=st.integers(1, 130))
def test_every_hit_is_that_of_the_plain_rule(kind, plain, requests, capacity):
    policy, model = kind(capacity), plain(capacity)
    for key, size in requests:
        assert replay(policy, [(key, size)])[0] == model.misses(key, size)


@EVERY
@settings(max_examples=60, deadline=None)
@given(
    does=st.lists(st.tuples(st.sampled_from("aaaaaart"), st.integers(0, 25)), max_size=120),
    is_choosy=st.booleans(),
)
def test_no_policy_holds_more_than_its_capacity(kind, does, is_choosy):
    """Accesses, removals and changed capacities in any order; the owner's copy of the keys stays right."""
    policy = kind(60, TinyLfu(64) if is_choosy else None)
    held = {}
    for what, key in does:
        gone = []
        if what == "r":
            policy.remove(key)
            held.pop(key, None)
        elif what == "t":
            gone = policy.resize(20 + key * 3)
        elif key in policy:
            policy.hit(key)
        else:
            gone = policy.insert(key, 1 + key)
            if key in policy:
                held[key] = 1 + key
        for each in gone:
            del held[each]
        assert set(held) == {each for each in range(26) if each in policy}
        assert policy.used == sum(held.values()) <= policy.capacity
        assert len(policy) == len(held)


@EVERY
def test_one_huge_object_does_not_empty_a_cache(kind):
    policy = kind(1000)
    policy.insert("small", 10)
    assert policy.insert("huge", 1001) == []
    assert "small" in policy and "huge" not in policy


def test_cost_keeps_what_is_dear():
    policy = Gdsf(2)
    policy.insert("dear", 1, 10.0)
    policy.insert("cheap", 1, 1.0)
    assert policy.insert("new", 1, 1.0) == ["cheap"]


@EVERY
def test_entries_take_no_more_than_their_overhead(kind):
    """With keys of 32 bytes in a dict of values, as the local cache has them."""
    count = 11_000  # just after the tables have grown
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        policy, values = kind(1 << 40), {}
        for number in range(count):
            key = number.to_bytes(32, "big")
            policy.insert(key, 300 + number)
            values[key] = number.to_bytes(8, "big")
        each = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    assert each <= kind.overhead + 32 + 8


def test_admission_follows_frequency_and_forgets():
    exact, sketch = Counter(), TinyLfu(1 << 12, 1 << 20)
    for key, _ in trace(5_000, 300):
        exact[key] += 1
        sketch.record(key)
    assert all(sketch.frequency(key) >= min(count, 15) for key, count in exact.items())
    equal = sum(sketch.frequency(key) == min(count, 15) for key, count in exact.items())
    assert equal >= 0.99 * len(exact)
    short = TinyLfu(64, 100)
    for _ in range(12):
        short.record("old")
    for number in range(200):
        short.record(number)
    assert short.frequency("old") < 12


@pytest.mark.parametrize("kind", [Lru, Sieve])
def test_admission_lowers_the_misses_of_a_skewed_trace(kind):
    requests = [(key, 1) for key, _ in trace(20_000, 2_000)]
    plain = replay(kind(50), requests)[0]
    assert replay(kind(50, TinyLfu(1024)), requests)[0] < 0.97 * plain


@pytest.mark.parametrize(
    ("exponent", "capacity"),
    one_in(3, [(0.8, 1000), (1.0, 500), (1.0, 1000), (0.8, 500), (0.8, 2000), (1.0, 100)]),
)
def test_hit_ratios_are_within_a_two_hundredth_of_the_formulas(exponent, capacity):
    shares, count = zipf(10_000, exponent), 150_000
    drawn = np.random.default_rng(3).choice(10_000, 30_000 + count, p=shares).tolist()
    for kind, expected in ((Lru, lru_hit_ratio), (Fifo, fifo_hit_ratio)):
        policy = kind(capacity)
        replay(policy, ((key, 1) for key in drawn[:30_000]))
        misses, _ = replay(policy, ((key, 1) for key in drawn[30_000:]))
        assert 1 - misses / count == pytest.approx(expected(shares, capacity), abs=0.005)
