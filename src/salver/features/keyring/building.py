"""Parts of the keyring: the keys of the ledger, and the operations on them."""

import asyncio
import contextlib
import time
from functools import partial
from typing import Final

from salver.features.access.building import table_of
from salver.features.keyring.following import FollowedKeys
from salver.features.keyring.key_changes import moment_of
from salver.features.keyring.key_operations import key_operations
from salver.features.keyring.key_ring import KeyRing
from salver.features.keyring.ledger_keys import LedgerKeys
from salver.features.ledger.ledger import Ledger
from salver.features.registry import RegistryConfig
from salver.features.usage.quota_states import quota_states
from salver.parts import Kernel, Parts, Tick
from salver.words.errors import SalverError

#: A change holds everywhere within a second, with time to read it.
_LOOK_S: Final = 0.4
_WRITE_S: Final = 60.0
_STOP_S: Final = 5.0


async def build(kernel: Kernel, config: RegistryConfig) -> Parts:
    """Follow the keys of the ledger. Requests need none until it has one, or the server has a file of keys.

    Raises:
        SalverError: the ledger cannot be read.
    """
    ledger, has_others = kernel.services.need(Ledger), kernel.keys is not None
    keys = table_of(kernel)
    records = LedgerKeys(ledger, time.time)
    followed = FollowedKeys(ledger, keys, kernel.clock, are_optional=not has_others)
    await followed.start()
    left = partial(quota_states, ledger, time.time)
    ring = KeyRing(records, lambda: moment_of(time.time()), keys.last_uses, left)

    async def write_uses() -> None:
        await followed.write_uses(records)

    async def stop() -> None:
        await followed.stop()
        with contextlib.suppress(SalverError, TimeoutError):  # a server that is cut off stops all the same
            async with asyncio.timeout(_STOP_S):
                await write_uses()

    return Parts(
        collectors=[followed],
        operations=key_operations(ring, followed.catch_up),
        ticks=[
            Tick("keys of the ledger", _LOOK_S, followed.look),
            Tick("uses of keys", _WRITE_S, write_uses),
        ],
        look=followed.look,
        stop=stop,
    )
