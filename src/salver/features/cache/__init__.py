"""Response cache: answers that can be reused, by key.

It knows no model and no queue: the caller computes the key and decides what to store.
"""

from collections.abc import Mapping

import msgspec

from salver.feature import Feature


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a response cache.

    Attributes:
        name: ``local``, ``redis`` or another installed cache; empty = none.
        options: Options of the cache, which rejects unknown ones.
    """

    name: str = ""
    options: Mapping[str, str] = {}


feature = Feature(
    "cache",
    "salver.features.cache.building:build",
    config=CacheConfig,
    has_table=False,
    is_used=lambda config: bool(config.name),
)
