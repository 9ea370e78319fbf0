"""What do the owner's rules allow, and when?"""

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.releases.judge.rules import (
    Approval,
    Blackout,
    CostCap,
    Coverage,
    Facts,
    Moment,
    MostUnits,
    Never,
    OnePerLayer,
    Rule,
    ShipOnBudget,
    StepApproval,
    hour_of_week,
    may_ship_on_budget,
    objections,
)
from salver.features.releases.judge.verdict import Decision, strictest

MOMENT = Moment(at=0.0, stage=1, canary_units=10, canary_requests=40, canary_events={}, hours=frozenset())
FACTS = Facts(others_in_layer=())


def told(rule: Rule, facts: Facts = FACTS, **changes: object) -> str:
    """The objection, empty for none."""
    found = objections([rule], facts, msgspec.structs.replace(MOMENT, **changes))
    return found[0].reason if found else ""


moments = st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2100, 1, 1))


@given(moments, st.sets(st.integers(0, 6)), st.integers(0, 23), st.integers(0, 23), st.integers(-720, 840))
def test_a_blackout_is_what_a_calendar_says(
    moment: datetime.datetime, days: set[int], first: int, last: int, offset: int
) -> None:
    rule = Blackout(days=tuple(days), start=f"{first:02}:00", end=f"{last:02}:00", utc_offset_minutes=offset)
    local = moment + datetime.timedelta(minutes=offset)
    begun = local.weekday() if first < last or local.hour >= first else (local.weekday() - 1) % 7
    inside = first <= local.hour < last if first < last else local.hour >= first or local.hour < last
    at = moment.replace(tzinfo=datetime.UTC).timestamp()
    assert rule.covers(at) == (inside and (not days or begun in days))


@given(moments)
def test_the_hour_of_the_week_is_the_calendars(moment: datetime.datetime) -> None:
    at = moment.replace(tzinfo=datetime.UTC).timestamp()
    assert hour_of_week(at) == 24 * moment.weekday() + moment.hour


def test_a_blackout_of_dates_looks_at_no_hours() -> None:
    rule = Blackout(since=100, until=200, start="00:00", end="00:01")
    assert [rule.covers(at) for at in (99, 100, 199, 200)] == [False, True, True, False]
    assert told(rule, at=150.0) == "there is a blackout now"


def test_enough_units_are_enough() -> None:
    assert told(MostUnits(11)) == ""
    assert told(MostUnits(10)) == "10 units have met the canary, and 10 may"


def test_one_release_a_layer() -> None:
    assert told(OnePerLayer()) == ""
    assert told(OnePerLayer(), Facts(others_in_layer=("r7",))) == "in the same layer runs r7"
    assert "not known" in told(OnePerLayer(), Facts())


def test_costs_are_capped() -> None:
    assert told(CostCap(20, request=0.5)) == ""
    assert told(CostCap(20, request=0.5), canary_requests=41) == "the release has cost 20.5, of 20"


def test_the_step_into_a_stage_waits_for_who_may_approve_it() -> None:
    rule = Approval(1, by=("ann", "bob"))
    assert told(rule) == "the step into stage 2 waits for the approval of ann or bob"
    assert told(rule, stage=2) == ""
    assert told(rule, Facts(approvals=(StepApproval(1, "eve"), StepApproval(0, "ann")))) != ""
    assert told(rule, Facts(approvals=(StepApproval(1, "bob"),))) == ""
    assert told(Approval(1), Facts(approvals=(StepApproval(1, "eve"),))) == ""
    assert told(Approval(1)).endswith("an operator")


def test_what_must_never_happen_rolls_back() -> None:
    assert told(Never("leak"), canary_events={"errors": 5}) == ""
    [objection] = objections(
        [Never("leak")], FACTS, msgspec.structs.replace(MOMENT, canary_events={"leak": 1})
    )
    assert objection.decision is Decision.ROLLBACK
    assert objection.reason == "'leak' must never happen, and did 1 times"


def test_the_hours_of_a_week_are_covered_before_a_stage() -> None:
    rule = Coverage(1, hours=(9, 10))
    assert told(rule, hours=frozenset({9})) == "1 of 2 hours of the week are not covered yet"
    assert told(rule, hours=frozenset({9, 10, 11})) == ""
    assert told(rule, stage=0) == ""
    assert told(rule, stage=2) != ""


def test_only_what_a_rule_allows_ships_on_its_budget() -> None:
    assert told(ShipOnBudget((0,))) == ""
    assert may_ship_on_budget([MostUnits(1), ShipOnBudget((0, 1))], 1)
    assert not may_ship_on_budget([ShipOnBudget((0,))], 1)
    assert not may_ship_on_budget([], 0)


ANY = (
    Blackout(),
    MostUnits(1),
    OnePerLayer(),
    CostCap(20, 0.5),
    Approval(1),
    Never("leak"),
    Coverage(1, (1,)),
    ShipOnBudget((1,)),
)


@given(st.lists(st.sampled_from(ANY)), st.sampled_from(list(Decision)))
def test_rules_never_make_a_decision_milder(rules: list[Rule], decision: Decision) -> None:
    found = objections(rules, Facts(), msgspec.structs.replace(MOMENT, canary_events={"leak": 1}))
    ruled = strictest([decision, *(objection.decision for objection in found)])
    assert ruled.strictness >= decision.strictness
    assert (ruled is Decision.ROLLBACK) == (decision is Decision.ROLLBACK or Never("leak") in rules)


@pytest.mark.parametrize("rule", ANY, ids=[type(rule).__name__ for rule in ANY])
def test_each_rule_is_an_object_of_its_type_in_json(rule: Rule) -> None:
    text = msgspec.json.encode(rule)
    assert msgspec.json.decode(text)["type"]
    assert msgspec.json.decode(text, type=Rule) == rule  # type: ignore[arg-type]
