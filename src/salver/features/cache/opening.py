"""Opening of a response cache by the entry-point group ``salver.response_caches``."""

from importlib.metadata import entry_points
from typing import Final

from salver.features.cache.config import CacheConfig
from salver.features.cache.ports import ResponseCache
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
