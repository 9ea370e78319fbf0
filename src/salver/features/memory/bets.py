"""Account of the loads ahead: what they have saved, what they have cost, and whether they go on. Pure.

A load ahead is a bet that the model is asked within a time. Won, it saves the caller a load; lost, it has
cost one, and the memory of what made room. Each source of forecasts has its own account, in seconds of
waiting, with recent bets weighing more. One that costs more than it saves is switched off, and from then on
bets on paper, without a load, until it would have paid again.
"""

from typing import Final, NamedTuple

import msgspec

from salver.features.memory.forecast import SOURCES, Source

_KEPT: Final = 0.95  # weight of a bet relative to the next one
_LEAST: Final = 8.0  # settled bets, after which a source is judged
_AGAIN: Final = 1.25  # saved for each second of cost, before a source is switched on again
_MOST: Final = 256  # open bets


class Bet(NamedTuple):
    """Load ahead whose outcome is open.

    Attributes:
        until: Asked by then, it is won.
        saved, cost: Seconds of waiting, if it is won, and in any case.
        is_paper: Nothing was loaded.
    """

    source: Source
    until: float
    saved: float
    cost: float
    is_paper: bool = False


class Account(msgspec.Struct):
    """Bets of one source.

    Attributes:
        is_on: It may load ahead.
        used, unused: Loads ahead that were asked for in time, or not.
        saved, spent: Seconds of waiting that these have saved and cost.
    """

    is_on: bool = True
    used: int = 0
    unused: int = 0
    saved: float = 0.0
    spent: float = 0.0
    weight: float = 0.0
    recent_saved: float = 0.0
    recent_spent: float = 0.0

    def settle(self, bet: Bet, *, is_won: bool) -> bool:
        """Count the outcome of a bet; return whether the source was switched on or off by it."""
        saved = bet.saved if is_won else 0.0
        self.weight = self.weight * _KEPT + 1.0
        self.recent_saved = self.recent_saved * _KEPT + saved
        self.recent_spent = self.recent_spent * _KEPT + bet.cost
        if not bet.is_paper:
            self.used += is_won
            self.unused += not is_won
            self.saved += saved
            self.spent += bet.cost
        if self.weight < _LEAST:
            return False
        before = self.is_on
        if before:
            self.is_on = self.recent_saved >= self.recent_spent
        else:
            self.is_on = self.recent_saved >= _AGAIN * self.recent_spent
        if self.is_on is before:
            return False
        self.weight = self.recent_saved = self.recent_spent = 0.0  # judged anew, by what comes now
        return True


class Bets:
    """Open bets, by model, and the accounts of their sources."""

    def __init__(self) -> None:
        self.accounts = {source: Account() for source in SOURCES}
        self._open: dict[str, Bet] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def __len__(self) -> int:
        return len(self._open)

    def open(self, name: str, bet: Bet) -> None:
        """Open a bet, unless there is one on this model, or there are too many."""
        if len(self._open) < _MOST:
            self._open.setdefault(name, bet)

    def of(self, name: str) -> Source | None:
        """Return the source of the open load ahead of a model; None = there is none."""
        bet = self._open.get(name)
        if bet is None or bet.is_paper:
            return None
        return bet.source

    def asked(self, name: str) -> Source | None:
        """Note that a model was asked; return the source that was switched on or off by it."""
        return self._settle(name, is_won=True)

    def lost(self, name: str) -> Source | None:
        """Note that a model was unloaded or removed unasked."""
        return self._settle(name, is_won=False)

    def expire(self, now: float) -> list[Source]:
        """Settle what was not asked in time; return the sources that were switched on or off by it."""
        over = [name for name, bet in self._open.items() if bet.until < now]
        return [source for name in over if (source := self._settle(name, is_won=False)) is not None]

    def _settle(self, name: str, *, is_won: bool) -> Source | None:
        bet = self._open.pop(name, None)
        if bet is None or not self.accounts[bet.source].settle(bet, is_won=is_won):
            return None
        return bet.source
