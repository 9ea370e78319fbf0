"""Conformance suite of :class:`salver.features.cache.ports.ResponseCache`.

Subclass :class:`CacheConformance`, or :class:`MeasuredCacheConformance`, define how to open a cache, and let
pytest collect it.
"""

from salver.features.cache.ports import KEY_BYTES, OWNER_BYTES, MeasuredCache, ResponseCache
from salver.kernel.serving.present import CacheFacts


def key(owner: int, number: int) -> bytes:
    """Return the key of a number, for one of several owners."""
    return bytes([owner]) * OWNER_BYTES + number.to_bytes(KEY_BYTES - OWNER_BYTES, "big")


class CacheConformance:
    """Suite with ``open_cache`` to define."""

    async def open_cache(self) -> ResponseCache:
        """Return an empty cache with room for 64 KiB or more."""
        raise NotImplementedError

    async def test_what_was_inserted_is_found_as_it_was(self) -> None:
        """Values of any bytes, including none, are returned unchanged."""
        cache = await self.open_cache()
        values = (b"", b"\x00\xff", bytes(range(256)) * 16)
        for number, value in enumerate(values):
            await cache.insert(key(1, number), value)
        assert [await cache.lookup(key(1, number)) for number in range(4)] == [*values, None]
        await cache.close()

    async def test_the_last_value_of_a_key_counts(self) -> None:
        """A new value replaces the old one."""
        cache = await self.open_cache()
        for value in (b"old", b"newer"):
            await cache.insert(key(1, 1), value)
        assert await cache.lookup(key(1, 1)) == b"newer"
        await cache.close()

    async def test_forgetting_an_owner_leaves_the_others(self) -> None:
        """Other owners keep their values, even if the owner has none."""
        cache = await self.open_cache()
        await cache.insert(key(1, 1), b"one")
        await cache.insert(key(2, 1), b"two")
        await cache.forget(key(1, 0)[:OWNER_BYTES])
        await cache.forget(key(3, 0)[:OWNER_BYTES])
        assert await cache.lookup(key(2, 1)) == b"two"
        await cache.close()

    async def test_the_largest_value_is_said_and_larger_ones_harm_nobody(self) -> None:
        """Other values are kept."""
        cache = await self.open_cache()
        assert cache.max_bytes >= 1 << 15
        await cache.insert(key(1, 1), b"small")
        if cache.max_bytes < 1 << 24:
            await cache.insert(key(1, 2), bytes(cache.max_bytes + 1))
            assert await cache.lookup(key(1, 2)) is None
        assert await cache.lookup(key(1, 1)) == b"small"
        await cache.close()


class MeasuredCacheConformance(CacheConformance):
    """Suite of a cache that reports its content."""

    async def test_facts_are_of_now(self) -> None:
        """Figures are current, empty and with one entry."""
        cache = await self.open_cache()
        assert isinstance(cache, MeasuredCache)
        assert cache.facts() == CacheFacts(0, 0.0, 0)
        await cache.insert(key(1, 1), bytes(1000))
        assert cache.facts().entries == 1
        assert 0 < cache.facts().utilization <= 1
        await cache.close()
