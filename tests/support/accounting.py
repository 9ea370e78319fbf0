"""Accounts of keys without a server around them. Not a suite itself."""

import os
from collections.abc import Callable
from pathlib import Path

from salver.features.ledger.ledger import Ledger
from salver.features.usage.accounts import KeyAccounts
from salver.features.usage.allowance import KeyQuotas
from salver.features.usage.store import UsageStore
from salver.words.errors import QuotaUnsettled


async def open_accounts(
    url: str, server: str, folder: Path | None, now: Callable[[], float], days: int = 400
) -> KeyAccounts:
    """Accounts of a server that has started; :func:`close` ends them."""
    ledger = await Ledger.open(url, patience=5)
    accounts = KeyAccounts(UsageStore(ledger, server), folder, now, days)
    await accounts.start()
    return accounts


async def close(accounts: KeyAccounts) -> None:
    """Stop as a server does."""
    await accounts.stop()
    await accounts._store.ledger.close()


async def drop(accounts: KeyAccounts) -> None:
    """End as a server that is killed: its file stays, and its lock goes."""
    await accounts._store.ledger.close()
    if (state := accounts._state) is not None:
        state._counts.release()
        state._map.close()
        os.close(state._file)


async def ask(quotas: KeyQuotas, rows: int = 0) -> bool:
    """Run a request as the data plane does; return whether it is accepted."""
    while isinstance(refusal := quotas.refusal(is_trial=False), QuotaUnsettled):
        await refusal.settled
    if refusal is not None:
        return False
    if not quotas.take(rows):
        await quotas.settle(rows)
    return True
