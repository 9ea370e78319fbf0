"""State of a key's quotas, as the ledger knows it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from salver.features.access.limits import LimitRules
from salver.features.access.quota_rules import parse_quotas, period_of
from salver.features.ledger.ledger import Ledger
from salver.features.usage.store import UsageStore
from salver.words.messages import LimitState

#: Name of the ledger of a server that has no other, and what stands behind the name of its keys file.
FILE: Final = "usage.db"
SUFFIX: Final = ".usage"


async def quota_states(
    ledger: Ledger, now: Callable[[], float], key: str, limits: LimitRules | None
) -> tuple[LimitState, ...]:
    """Return the quotas of a key with what all servers have left of them, late by at most ten seconds.

    Args:
        now: Returns Unix seconds.
        key: Id of the key.
    """
    rules = parse_quotas(() if limits is None else limits.quotas)
    periods = {rule: period_of(rule.span, now()) for rule in rules}
    if not periods:
        return ()
    found = await UsageStore(ledger, "").left({period.name for period in periods.values()}, key)
    states = []
    for rule, period in periods.items():
        _, used = found.get((key, rule.name, period.name), (0, 0))
        left = rule.shown(max(0, rule.most - used))
        states.append(LimitState(rule.limit_name, rule.amount, period.seconds, left, period.ends))
    return tuple(states)


async def states_beside(
    keys_file: Path, now: Callable[[], float], key: str, limits: LimitRules | None
) -> tuple[LimitState, ...]:
    """Return the same for a key of a file, by what is kept beside it; nothing if no server has used it.

    Raises:
        LedgerFailed: the file of usage cannot be read.
    """
    file = file_beside(keys_file).absolute()
    if limits is None or not limits.quotas or not file.exists():
        return ()
    async with await Ledger.open(f"sqlite:///{file}") as ledger:
        return await quota_states(ledger, now, key, limits)


def file_beside(keys_file: Path) -> Path:
    """Return the file of usage beside a keys file."""
    return keys_file.with_name(f"{keys_file.name}{SUFFIX}") / FILE
