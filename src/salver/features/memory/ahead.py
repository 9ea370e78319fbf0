"""Loading ahead: keeps the forecasts and the bets of a budget.

:class:`Ahead` is told of requests, loads and unloads, and says which absent versions may be asked soon. It
loads nothing: ``policy`` decides whether it pays.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from salver.features.memory.bets import Bet, Bets
from salver.features.memory.forecast import Forecast, Forecaster, Source

_LOG: Final = logging.getLogger("salver.memory")
_HORIZON_LOADS, _LEAST_HORIZON_S, _MOST_HORIZON_S = 10.0, 60.0, 900.0
_WORTH: Final = 0.02  # a chance below it never pays


def horizon(reload_s: float) -> float:
    """Return the seconds within which a load ahead has to be of use: some times those of a load.

    >>> [horizon(seconds) for seconds in (0.1, 20.0, 600.0)]
    [60.0, 200.0, 900.0]
    """
    return min(max(_HORIZON_LOADS * reload_s, _LEAST_HORIZON_S), _MOST_HORIZON_S)


class Ahead:
    """Forecasts, and the accounts of what was loaded by them.

    Attributes:
        bets: What the loads ahead have saved and cost.
    """

    def __init__(self) -> None:
        self.bets = Bets()
        self._forecaster = Forecaster()
        self._asked: dict[str, None] = {}  # since the last turn, in order
        self._co_access: Mapping[str, float] = {}
        self._owed = 0.0  # cost of what has made room for the next load ahead

    def asked(self, name: str) -> None:
        """Note that a model was asked; taken up by the next turn."""
        self._asked[name] = None

    def turn(self, now: float) -> None:
        """Take up what was asked, and settle the bets; called once a second."""
        for source in self.bets.expire(now):
            self._tell(source)
        for name in self._asked:
            self._tell(self.bets.asked(name))
            self._forecaster.note(name, now)
        self._asked.clear()
        self._co_access = self._forecaster.co_access(now)

    def likely(self, now: float) -> Iterable[str]:
        """Return models that may be asked soon; a limited number."""
        return self._forecaster.likely(now, _LEAST_HORIZON_S)

    def forecast(self, name: str, now: float, reload_s: float) -> Forecast:
        """Return the chance that a model is asked within the horizon of a load that takes so long."""
        return self._forecaster.forecast(name, now, horizon(reload_s), self._co_access)

    def is_worth(self, name: str, forecast: Forecast, *, is_on: bool) -> bool:
        """Return whether a forecast is worth a thought, by a source that is switched on, or off."""
        if forecast.chance <= _WORTH or name in self.bets:
            return False
        return self.bets.accounts[forecast.source].is_on is is_on

    def makes_room(self, cost: float) -> None:
        """Note that a version was unloaded for a load ahead, which is expected to cost so much."""
        self._owed += cost

    def begins(
        self, name: str, now: float, reload_s: float, priority: float, cost: float, *, is_paper: bool
    ) -> None:
        """Note a load ahead.

        Args:
            priority: Weight of the seconds that it saves, as in ``cost``.
            cost: Seconds of waiting that it is expected to cost, beside those of what has made room.
            is_paper: It would pay, but its source is switched off, and nothing is loaded.
        """
        if not is_paper:
            cost, self._owed = cost + self._owed, 0.0
        source = self.forecast(name, now, reload_s).source
        until = now + reload_s + horizon(reload_s)
        self.bets.open(name, Bet(source, until, reload_s * priority, cost, is_paper))

    def ends(self, name: str) -> None:
        """Note that a model was unloaded."""
        if self.bets.of(name) is not None:
            self._tell(self.bets.lost(name))

    def _tell(self, source: Source | None) -> None:
        if source is None:
            return
        account = self.bets.accounts[source]
        word = "on again: it would have saved more than it cost"
        if not account.is_on:
            word = "off: it has cost more than it has saved"
        _LOG.info("loading ahead by %r is switched %s", source, word)
