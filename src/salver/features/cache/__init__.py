"""Has this been computed already?

Answers that may be given again, by what was asked. It knows no model and no queue: who asks says what the
key is, and what it is worth keeping.
"""

from salver.features.cache.config import CacheConfig, parse
from salver.features.cache.ports import CacheFacts, CacheUse, Measured, ResponseCache

__all__ = ["CacheConfig", "CacheFacts", "CacheUse", "Measured", "ResponseCache", "parse"]
