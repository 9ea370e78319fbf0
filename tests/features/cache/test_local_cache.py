"""The cache in memory keeps the promises, its bound, and the order in which entries go."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.cache.local import OVERHEAD, LocalCache, local
from salver.features.cache.options import byte_size
from salver.features.cache.ports import OWNER_BYTES, ResponseCache
from salver.kernel.serving.present import CacheFacts
from salver.terminal.options import cache_of
from salver.testing.caches import MeasuredCacheConformance, key
from salver.words.errors import InvalidInput


class TestLocalCache(MeasuredCacheConformance):
    async def open_cache(self) -> ResponseCache:
        return local({"size": "64k"})


@pytest.mark.clause("TR-S10")
async def test_the_one_that_nobody_asked_for_the_longest_goes_first():
    cache = LocalCache(3 * (OVERHEAD + 10))
    for number in range(3):
        await cache.insert(key(1, number), bytes(10))
    assert cache.facts() == CacheFacts(3, 1.0, 0, 3 * (OVERHEAD + 10))
    await cache.lookup(key(1, 0))
    await cache.insert(key(1, 3), bytes(10))
    there = [await cache.lookup(key(1, number)) is not None for number in range(4)]
    assert there == [True, False, True, True]
    assert cache.facts().evictions == 1


@pytest.mark.clause("TR-S10")
async def test_a_version_that_goes_takes_its_entries_along():
    cache = LocalCache(1 << 16)
    await cache.insert(key(1, 1), b"one")
    await cache.insert(key(2, 1), b"two")
    await cache.forget(key(1, 0)[:OWNER_BYTES])
    assert await cache.lookup(key(1, 1)) is None
    assert cache.facts() == CacheFacts(1, (OVERHEAD + 3) / (1 << 16), 0, OVERHEAD + 3)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000)), max_size=60))
def test_the_bound_holds_whatever_is_inserted(inserts: list[tuple[int, int]]):
    async def fill() -> None:
        cache = LocalCache(4096)
        sizes: dict[bytes, int] = {}
        for number, size in inserts:
            await cache.insert(key(1, number), bytes(size))
            sizes[key(1, number)] = size
            there = [k for k in sizes if await cache.lookup(k) is not None]
            taken = sum(sizes[k] + OVERHEAD for k in there)
            assert taken <= 4096
            facts = cache.facts()
            assert (facts.entries, facts.utilization) == (len(there), taken / 4096)

    asyncio.run(fill())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "needs a size"),
        ({"size": "0"}, "not a positive number of bytes"),
        ({"size": "-5"}, "not a positive number of bytes"),
        ({"size": "1e6"}, "not a positive number of bytes"),
        ({"size": "9" * 40}, "not a positive number of bytes"),
        ({"size": ""}, "not a positive number of bytes"),
        ({"size": "12"}, "holds no answer"),
        ({"size": "64m", "ttl": "3"}, "has no setting 'ttl'. It has size"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str], text: str):
    with pytest.raises(InvalidInput, match=text):
        local(options)


@pytest.mark.parametrize(("text", "size"), [("5", 5), ("2K", 2048), ("3m", 3 << 20), ("1g", 1 << 30)])
def test_sizes_have_units(text: str, size: int):
    assert byte_size(text, "size") == size


@pytest.mark.clause("TR-F9")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["local,size=1", "redis,host=a"], "can be one cache, not both 'local' and 'redis'"),
        (["size=1"], "names no cache"),
        ([""], "names no cache"),
        (["local,size"], "'size' is not a setting"),
        (["local,=1"], "'=1' is not a setting"),
    ],
)
def test_words_that_ask_for_no_cache_are_refused(words: list[str], text: str):
    with pytest.raises(InvalidInput, match=text):
        cache_of(words, "--cache-config")
