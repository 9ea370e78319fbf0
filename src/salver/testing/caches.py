"""Does a response cache keep the promises of :class:`salver.features.cache.ResponseCache`?

Subclass :class:`CacheConformance`, or :class:`MeasuredCacheConformance`, say how to open one, and let pytest
collect it.
"""

from salver.features.cache import Measured, ResponseCache
from salver.features.cache.ports import KEY_BYTES, OWNER_BYTES
from salver.kernel.serving.present import CacheFacts


def key(owner: int, number: int) -> bytes:
    """The key of a number, of one of several owners."""
    return bytes([owner]) * OWNER_BYTES + number.to_bytes(KEY_BYTES - OWNER_BYTES, "big")


class CacheConformance:
    """The suite; ``open_cache`` is to be written."""

    async def open_cache(self) -> ResponseCache:
        """An empty cache with room for 64 KiB or more."""
        raise NotImplementedError

    async def test_what_was_inserted_is_found_as_it_was(self) -> None:
        """Whatever bytes it has, none among them."""
        cache = await self.open_cache()
        values = (b"", b"\x00\xff", bytes(range(256)) * 16)
        for number, value in enumerate(values):
            await cache.insert(key(1, number), value)
        assert [await cache.lookup(key(1, number)) for number in range(4)] == [*values, None]
        await cache.close()

    async def test_the_last_value_of_a_key_counts(self) -> None:
        """An older one is gone."""
        cache = await self.open_cache()
        for value in (b"old", b"newer"):
            await cache.insert(key(1, 1), value)
        assert await cache.lookup(key(1, 1)) == b"newer"
        await cache.close()

    async def test_forgetting_an_owner_leaves_the_others(self) -> None:
        """Also where the owner has nothing there."""
        cache = await self.open_cache()
        await cache.insert(key(1, 1), b"one")
        await cache.insert(key(2, 1), b"two")
        await cache.forget(key(1, 0)[:OWNER_BYTES])
        await cache.forget(key(3, 0)[:OWNER_BYTES])
        assert await cache.lookup(key(2, 1)) == b"two"
        await cache.close()

    async def test_the_largest_value_is_said_and_larger_ones_harm_nobody(self) -> None:
        """The rest stays."""
        cache = await self.open_cache()
        assert cache.max_bytes >= 1 << 15
        await cache.insert(key(1, 1), b"small")
        if cache.max_bytes < 1 << 24:
            await cache.insert(key(1, 2), bytes(cache.max_bytes + 1))
            assert await cache.lookup(key(1, 2)) is None
        assert await cache.lookup(key(1, 1)) == b"small"
        await cache.close()


class MeasuredCacheConformance(CacheConformance):
    """The suite of a cache that tells what it holds, too."""

    async def test_facts_are_of_now(self) -> None:
        """Empty, and with one entry."""
        cache = await self.open_cache()
        assert isinstance(cache, Measured)
        assert cache.facts() == CacheFacts(0, 0.0, 0)
        await cache.insert(key(1, 1), bytes(1000))
        assert cache.facts().entries == 1
        assert 0 < cache.facts().utilization <= 1
        await cache.close()
