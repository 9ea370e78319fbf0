"""Forecasts of the next request, and the account of what was loaded by them."""

import pytest

from salver.features.memory.ahead import Ahead
from salver.features.memory.bets import Bet, Bets
from salver.features.memory.forecast import Forecast, Forecaster, Source

DAY = 86_400.0


def ask(forecaster: Forecaster, name: str, now: float, horizon: float = 60.0) -> Forecast:
    return forecaster.forecast(name, now, horizon, forecaster.co_access(now))


def test_a_model_that_is_asked_every_ten_minutes_is_expected_then_and_not_before() -> None:
    forecaster = Forecaster()
    for turn in range(20):
        forecaster.note("a", turn * 600.0)
    last = 19 * 600.0
    assert ask(forecaster, "a", last + 60.0).chance < 0.05
    found = ask(forecaster, "a", last + 590.0, 120.0)
    assert (found.source, found.chance > 0.6) == ("gaps", True)


def test_a_model_that_is_asked_each_day_is_expected_at_that_time() -> None:
    forecaster = Forecaster()
    for day in range(5):
        forecaster.note("a", day * DAY + 32_700.0)
        for hour in range(24):
            forecaster.note("b", day * DAY + hour * 3600.0)
    found = ask(forecaster, "a", 5 * DAY + 32_390.0)
    assert (found.source, found.chance > 0.6) == ("day", True)
    assert "a" in forecaster.likely(5 * DAY + 32_390.0, 60.0)
    assert ask(forecaster, "a", 5 * DAY + 40_000.0).chance < 0.1


def test_a_model_that_follows_another_is_expected_after_it() -> None:
    forecaster = Forecaster()
    for turn in range(9):
        forecaster.note("a", turn * 5000.0 + turn**3)
        forecaster.note("b", turn * 5000.0 + turn**3 + 5.0)
    now = 60_000.0
    assert ask(forecaster, "b", now).chance < 0.1
    forecaster.note("a", now)
    found = ask(forecaster, "b", now + 1.0)
    assert (found.source, found.chance > 0.8) == ("co-access", True)
    forecaster.note("b", now + 2.0)
    assert forecaster.co_access(now + 3.0) == {}


def test_what_is_never_asked_is_never_expected_and_what_is_forgotten_neither() -> None:
    forecaster = Forecaster()
    assert ask(forecaster, "a", 5.0) == Forecast(0.0, "co-access")
    forecaster.note("a", 5.0)
    forecaster.forget("a")
    assert (len(forecaster), forecaster.likely(6.0, 60.0)) == (0, set())


def test_histories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.features.memory.forecast._MOST_MODELS", 10)
    forecaster = Forecaster()
    for number in range(500):
        forecaster.note(f"m{number}", float(number))
    assert len(forecaster) == 10
    assert len(forecaster.likely(500.0, 60.0)) <= 10


def settle(bets: Bets, source: Source, times: int, *, is_won: bool, is_paper: bool = False) -> list[Source]:
    switched = []
    for turn in range(times):
        bets.open("a", Bet(source, float(turn), 1.0, 0.3, is_paper))
        found = bets.asked("a") if is_won else next(iter(bets.expire(turn + 1.0)), None)
        switched += [found] if found else []
    return switched


def test_a_source_that_does_not_pay_is_switched_off_until_it_would_have_paid() -> None:
    bets = Bets()
    assert settle(bets, "day", 40, is_won=True) == []
    assert settle(bets, "gaps", 40, is_won=False)[:1] == ["gaps"]
    account = bets.accounts["gaps"]
    assert (account.is_on, account.used, account.unused, account.saved) == (False, 0, 40, 0.0)
    assert settle(bets, "gaps", 40, is_won=True, is_paper=True) == ["gaps"]
    assert (account.is_on, account.used) == (True, 0)
    assert bets.accounts["day"].is_on


def test_a_switch_is_told(caplog: pytest.LogCaptureFixture) -> None:
    ahead = Ahead()
    caplog.set_level("INFO")
    for turn in range(20):
        ahead.asked("a")
        ahead.turn(turn * 1000.0)
        ahead.begins("a", turn * 1000.0 + 1.0, 1.0, 1.0, 0.5, is_paper=False)
    assert "loading ahead by 'gaps' is switched off" in caplog.text
