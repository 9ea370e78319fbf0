"""Parts of usage: accounts of all keys, their operation, and what is written of them."""

import asyncio
import logging
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Final

from salver.features.access import AccessConfig
from salver.features.access.key_table import KeyTable
from salver.features.ledger.databases import path_of
from salver.features.ledger.ledger import Ledger
from salver.features.usage import UsageConfig
from salver.features.usage.accounts import KeyAccounts
from salver.features.usage.operations import operations
from salver.features.usage.quota_states import FILE, file_beside
from salver.features.usage.store import UsageStore
from salver.parts import Kernel, Parts, Tick
from salver.words.errors import SalverError

_LOG: Final = logging.getLogger("salver.usage")
_TICK_S: Final = 1.0
_STOP_S: Final = 10.0


async def build_accounts(kernel: Kernel, config: UsageConfig) -> Parts:
    """Open the accounts of a server with keys.

    Raises:
        SalverError: the ledger cannot be opened or written.
    """
    keys = kernel.keys
    if not isinstance(keys, KeyTable):
        return Parts()
    shared = kernel.services.find(Ledger)
    folder = _folder(config, kernel.config.table("access", AccessConfig).keys_file, shared)
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="salver-usage-", ignore_cleanup_errors=True)
        folder = Path(temporary.name)
    else:
        temporary = None
    ledger = shared or await Ledger.open(f"sqlite:///{folder / FILE}")
    store = UsageStore(ledger, f"{platform.node()}-{kernel.new_id()}")
    accounts = KeyAccounts(store, folder, time.time, config.days)
    await accounts.start()
    keys.accounts = accounts

    async def stop() -> None:
        try:
            async with asyncio.timeout(_STOP_S):
                await accounts.stop()
        except (SalverError, TimeoutError) as error:  # what quotas have used is in the file
            _LOG.warning(
                "the use of keys in the last seconds is not written: %s", error or "it takes too long"
            )
        if shared is None:
            await ledger.close()
        if temporary is not None:
            temporary.cleanup()

    return Parts(
        operations=operations(accounts, store), ticks=[Tick("usage", _TICK_S, accounts.tick)], stop=stop
    )


def _folder(config: UsageConfig, keys_file: str, shared: Ledger | None) -> Path | None:
    """Return the folder, which is made; None = there is none, or it cannot be used."""
    ledger = path_of(shared.url) if shared is not None else None
    if config.folder:
        folder = Path(config.folder)
    elif keys_file:
        folder = file_beside(Path(keys_file)).parent
    elif ledger is not None:
        folder = ledger.with_name("usage")
    else:
        return None
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
        reason = "it cannot be written"
    except OSError as error:
        reason = error.strerror or str(error)
    _LOG.warning(
        "what keys use is forgotten when this server stops, as %s cannot be used (%s); "
        "name another folder as usage.folder in [server] of salver.toml",
        folder,
        reason,
    )
    return None
