"""Parts of the response cache, which is opened by the entry-point group ``salver.response_caches``."""

from importlib.metadata import entry_points
from typing import Final

from salver.features.cache import CacheConfig
from salver.features.cache.caching import Caching
from salver.features.cache.control import TICK_S, CacheControl
from salver.features.cache.loading import CacheAttachment
from salver.features.cache.local import LocalCache
from salver.features.cache.operations import operations
from salver.features.cache.ports import KEY_BYTES, ResponseCache
from salver.kernel.serving.loading import Additions, CacheCover
from salver.parts import Kernel, Parts, Tick
from salver.words.errors import InvalidInput

GROUP: Final = "salver.response_caches"


def open_cache(config: CacheConfig) -> ResponseCache | None:
    """Open the configured cache; return None if there is none.

    An entry point is a callable that makes a cache from options (a mapping of strings) and rejects unknown
    ones.

    Raises:
        InvalidInput: there is no such cache, or its options are wrong.
        SalverError: raised while opening it.
    """
    if not config.name:
        return None
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    if config.name not in entries:
        raise InvalidInput(
            f"there is no response cache {config.name!r}", fix=f"There are: {', '.join(sorted(entries))}."
        )
    cache: ResponseCache = entries[config.name].load()(config.options)
    return cache


async def build(kernel: Kernel, config: CacheConfig) -> Parts:
    """Return what keeps the answers of models that want it."""
    cache = open_cache(config)
    if cache is None:
        return Parts()
    overhead = KEY_BYTES
    if isinstance(cache, LocalCache):
        overhead = cache.overhead
    caching = Caching(cache, kernel.clock, overhead)
    kernel.state.cache_use = caching.use
    control = CacheControl(caching, cache)
    attachment = CacheAttachment(caching)
    kernel.services.offer(CacheCover, attachment.attach)
    return Parts(
        additions=Additions(attachments=[attachment]),
        operations=operations(control),
        ticks=[Tick("cache", TICK_S, control.tick)],
        close=cache.close,
    )
