"""Parts of the keyring for a server with a file of keys and no ledger: the operations on them."""

import time
from functools import partial
from pathlib import Path

from salver.features.access import AccessConfig
from salver.features.access.building import WatchedFile, table_of
from salver.features.keyring.file_keys import FileKeys
from salver.features.keyring.key_changes import moment_of
from salver.features.keyring.key_operations import key_operations
from salver.features.keyring.key_ring import KeyRing
from salver.features.registry import RegistryConfig
from salver.features.usage.quota_states import states_beside
from salver.parts import Kernel, Parts


async def build(kernel: Kernel, config: AccessConfig) -> Parts:
    """Return the operations on the keys of the file, unless the server has those on the keys of a ledger."""
    if kernel.config.table("registry", RegistryConfig).ledger:
        return Parts()
    keys = table_of(kernel)
    file = Path(config.keys_file)
    left = partial(states_beside, file, time.time)
    ring = KeyRing(FileKeys(file), lambda: moment_of(time.time()), keys.last_uses, left)
    return Parts(operations=key_operations(ring, kernel.services.need(WatchedFile).look))
