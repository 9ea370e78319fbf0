"""Response cache: answers that can be reused, by key.

It knows no model and no queue: the caller computes the key and decides what to store.
"""

from salver.feature import Feature
from salver.features.cache.config import CacheConfig

feature = Feature(
    "cache",
    "salver.features.cache.building:build",
    config=CacheConfig,
    has_table=False,
    is_used=lambda config: bool(config.name),
)
