"""Response cache: answers that can be reused, by key.

It knows no model and no queue: the caller computes the key and decides what to store.
"""

from salver.features.cache.config import CacheConfig
from salver.features.cache.ports import MeasuredCache, ResponseCache

__all__ = ["CacheConfig", "MeasuredCache", "ResponseCache"]
