"""Parts of access: the table of keys, and the file that fills it."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from salver.backends.loading import state_of
from salver.features.access import AccessConfig
from salver.features.access.key_table import KeyChange, KeyTable
from salver.features.access.keys_file import read_whole, table
from salver.features.access.me import operations
from salver.features.access.plane import CheckingPlane
from salver.parts import Kernel, Parts, Tick
from salver.words.errors import SalverError

_LOG: Final = logging.getLogger("salver.access")
_AUDIT: Final = logging.getLogger("salver.audit")
_LOOK_S: Final = 0.5
#: Most lines of the audit log for one change of the file.
_MOST_LINES: Final = 100


class WatchedFile:
    """File of keys that is read again when it changes."""

    def __init__(self, path: Path, keys: KeyTable) -> None:
        self._path = path
        self._keys = keys
        self._seen: object = None

    def __repr__(self) -> str:
        return f"<WatchedFile {self._path}>"

    def read(self) -> None:
        """Read the file. Raises InvalidInput, and then changes nothing."""
        is_first, self._seen = self._seen is None, state_of(self._path)
        content = read_whole(self._path)
        found = table(content.key)
        count = len({key.id for key in found.values()})
        changes = self._keys.replace(found)
        self._keys.declare(content.limits)
        if not is_first:
            record_changes(changes)
        _LOG.info("%d keys of %s are valid; only liveness needs none", count, self._path)

    async def look(self) -> None:
        """Read the file if it has changed; one that is wrong is logged, and the keys stay as they were."""
        if await asyncio.to_thread(state_of, self._path) == self._seen:
            return
        try:
            await asyncio.to_thread(self.read)
        except SalverError as error:
            _LOG.error("the keys stay as they are: %s", error)


def record_changes(changes: Sequence[KeyChange]) -> None:
    """Write what has changed to the audit log."""
    for what, id, name in changes[:_MOST_LINES]:
        _AUDIT.info({"event": f"key {what}", "key": id, "name": name})
    if len(changes) > _MOST_LINES:
        _AUDIT.info({"event": "more keys changed", "keys": len(changes) - _MOST_LINES})


async def build(kernel: Kernel, config: AccessConfig) -> Parts:
    """Ask for keys in every protocol.

    Raises:
        InvalidInput: the file cannot be read, or is wrong.
    """
    file = WatchedFile(Path(config.keys_file), table_of(kernel))
    file.read()
    kernel.services.offer(WatchedFile, file)
    return Parts(ticks=[Tick("keys", _LOOK_S, file.look)], look=file.look)


def table_of(kernel: Kernel) -> KeyTable:
    """Return the keys of a server, which asks for them in every protocol from the first call on."""
    if isinstance(kernel.keys, KeyTable):
        return kernel.keys
    keys = KeyTable(time.time, time.monotonic_ns, kernel.context.tenant_header, kernel.token)
    kernel.keys = keys
    kernel.door = CheckingPlane(kernel.door.path)
    kernel.parts.append(Parts(collectors=[keys.refusals], operations=operations(keys)))
    return keys
