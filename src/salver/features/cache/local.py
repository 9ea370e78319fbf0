"""Response cache in this process's memory, with a size limit.

Least recently used entries are evicted first.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from salver.features.cache.options import byte_size, only
from salver.features.cache.ports import KEY_BYTES
from salver.kernel.serving.present import CacheFacts
from salver.words.errors import InvalidInput

#: Size of an entry in addition to its value: the key, two objects and their table slots.
OVERHEAD: Final = KEY_BYTES + 224


class LocalCache:
    """Least-recently-used cache.

    Args:
        size: Maximum bytes of all entries, including their overhead.
    """

    def __init__(self, size: int) -> None:
        self.max_bytes = size - OVERHEAD
        self._size = size
        self._used = self._evictions = 0
        self._values: OrderedDict[bytes, bytes] = OrderedDict()

    def __repr__(self) -> str:
        return f"<LocalCache {len(self._values)} entries, {self._used} of {self._size} bytes>"

    async def lookup(self, key: bytes) -> bytes | None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    async def insert(self, key: bytes, value: bytes) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        if len(value) > self.max_bytes:
            return
        self._drop(key)
        self._used += len(value) + OVERHEAD
        while self._used > self._size:
            self._drop(next(iter(self._values)))
            self._evictions += 1
        self._values[key] = value

    async def forget(self, owner: bytes) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        for key in [key for key in self._values if key.startswith(owner)]:
            self._drop(key)

    async def close(self) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        self._values.clear()
        self._used = 0

    def facts(self) -> CacheFacts:
        """See :class:`~salver.features.cache.ports.MeasuredCache`."""
        return CacheFacts(len(self._values), self._used / self._size, self._evictions)

    def _drop(self, key: bytes) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._used -= len(value) + OVERHEAD


def local(options: Mapping[str, str]) -> LocalCache:
    """Return the cache for ``local,size=N``.

    Raises:
        InvalidInput: the size is missing, too small or invalid.
    """
    only(options, "local", ("size",))
    if "size" not in options:
        raise InvalidInput("the cache 'local' needs a size", fix="As local,size=64m.")
    size = byte_size(options["size"], "size of the cache 'local'")
    if size > (most := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise InvalidInput(f"the cache 'local' is to have {size} bytes, and this machine has {most}")
    if size <= OVERHEAD:
        raise InvalidInput(f"a cache of {size} bytes holds no answer", fix="As local,size=64m.")
    return LocalCache(size)
