"""Has this been computed already?

Answers that may be given again, by what was asked. It knows no model and no queue: who asks says what the
key is, and what it is worth keeping.
"""

from salver.features.cache.config import CacheConfig
from salver.features.cache.ports import Measured, ResponseCache

__all__ = ["CacheConfig", "Measured", "ResponseCache"]
