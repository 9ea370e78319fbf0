"""Parts of the keyring for a server with a file of keys and no ledger: the operations on them."""

import time
from pathlib import Path

from salver.features.access import AccessConfig
from salver.features.access.building import WatchedFile, table_of
from salver.features.keyring.file_keys import FileKeys
from salver.features.keyring.key_changes import moment_of
from salver.features.keyring.key_operations import key_operations
from salver.features.keyring.key_ring import KeyRing
from salver.features.registry import RegistryConfig
from salver.parts import Kernel, Parts


async def build(kernel: Kernel, config: AccessConfig) -> Parts:
    """Return the operations on the keys of the file, unless the server has those on the keys of a ledger."""
    if kernel.config.table("registry", RegistryConfig).ledger:
        return Parts()
    keys = table_of(kernel)
    ring = KeyRing(FileKeys(Path(config.keys_file)), lambda: moment_of(time.time()), keys.last_uses)
    return Parts(operations=key_operations(ring, kernel.services.need(WatchedFile).look))
