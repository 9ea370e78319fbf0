"""Parts of the response cache."""

from salver.features.cache.caching import Caching
from salver.features.cache.config import CacheConfig
from salver.features.cache.loading import CacheAttachment
from salver.features.cache.opening import open_cache
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts


async def build(kernel: Kernel, config: CacheConfig) -> Parts:
    """Return what keeps the answers of models that want it."""
    cache = open_cache(config)
    if cache is None:
        return Parts()
    caching = Caching(cache, kernel.clock)
    kernel.state.cache_use = caching.use
    return Parts(additions=Additions(attachments=[CacheAttachment(caching)]), close=cache.close)
