"""Business rules about steps of a release, independent of evidence.

Typed predicates. A rule makes a verdict stricter, or allows what a stage's budget alone would not; it cannot
change evidence. Unknown facts are assumed to be the worst case. The caller supplies the facts. Pure.
"""

import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from salver.features.releases.judge.verdict import Decision
from salver.words.errors import InvalidInput

_DAY_SECONDS, _DAY_MINUTES, _WEEK_HOURS = 86_400, 1440, 168
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")


class Blackout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="blackout"):
    """Rule: no step forward in these hours, or between two times.

    Attributes:
        days: Days of the week, 0 = Monday; empty = every day.
        start, end: Times of day, ``HH:MM``; an end before the start is on the next day.
        utc_offset_minutes: Offset of the time zone from UTC, positive to the east.
        since, until: Unix seconds; if set, the hours are ignored.
    """

    days: tuple[int, ...] = ()
    start: str = "00:00"
    end: str = "24:00"
    utc_offset_minutes: int = 0
    since: float = 0.0
    until: float = 0.0

    def __post_init__(self) -> None:
        for name, time in (("start", self.start), ("end", self.end)):
            if not _TIME.fullmatch(time):
                raise InvalidInput(f"'{time}' is not a time of day", field=name, fix="Write it as HH:MM.")
        if not all(0 <= day <= 6 for day in self.days):
            raise InvalidInput(
                f"{list(self.days)} are not days of the week", field="days", fix="0 is Monday, 6 Sunday."
            )
        if abs(self.utc_offset_minutes) > _DAY_MINUTES:
            raise InvalidInput(
                f"no clock is {self.utc_offset_minutes} minutes from UTC",
                field="utc_offset_minutes",
                fix="Give the minutes that it is ahead: 60 for Berlin in winter, -300 for New York.",
            )
        if self.until < self.since:
            raise InvalidInput("the blackout ends before it begins", field="until", fix="Swap start and end.")

    def covers(self, at: float) -> bool:
        """Return whether a time in Unix seconds lies in it."""
        if self.until:
            return self.since <= at < self.until
        local = at + 60 * self.utc_offset_minutes
        day, second = int(local // _DAY_SECONDS), local % _DAY_SECONDS
        start, end = _seconds(self.start), _seconds(self.end)
        if start < end:
            return self._is_on(day) and start <= second < end
        return (self._is_on(day) and second >= start) or (self._is_on(day - 1) and second < end)

    def _is_on(self, day: int) -> bool:
        return not self.days or (day + 3) % 7 in self.days  # 1 January 1970 was a Thursday


class MostUnits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="most_units"):
    """Rule: no step forward once that many units have got the canary."""

    units: int


class OnePerLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="one_per_layer"):
    """Rule: no step forward while another release runs in the same layer."""


class CostCap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cost_cap"):
    """Rule: no step forward once the canary's answers to callers have cost more.

    Attributes:
        most: Maximum cost in any currency.
        request: Cost of each answer.
    """

    most: float
    request: float

    def __post_init__(self) -> None:
        for name, cost in (("most", self.most), ("request", self.request)):
            if not 0 < cost < math.inf:
                raise InvalidInput(f"a cost of {cost:g} caps nothing", field=name, fix="Give one above 0.")


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="approval"):
    """Rule: the step into a stage needs approval.

    Attributes:
        stage: Number of the stage, from 0; one more than the last means all traffic.
        by: Who may approve; empty = anybody.
    """

    stage: int
    by: tuple[str, ...] = ()


class Never(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="never"):
    """Rule: the first such event of the canary causes a rollback, for example a data leak."""

    event: str


class Coverage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="coverage"):
    """Rule: before a stage the canary must have served these hours of the week, such as the daily peak.

    Attributes:
        stage: Number of the stage; one more than the last means all traffic.
        hours: Hours of the week in UTC, 0 = Monday from 0 to 1 o'clock, up to 167.
    """

    stage: int
    hours: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.hours or not all(0 <= hour < _WEEK_HOURS for hour in self.hours):
            raise InvalidInput(
                f"{list(self.hours)} are not hours of a week", field="hours", fix="Name some, from 0 to 167."
            )


class ShipOnBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ship_on_budget"):
    """Rule: these stages may end with a complete sample and no evidence against the canary, without proof."""

    stages: tuple[int, ...]


Rule = Blackout | MostUnits | OnePerLayer | CostCap | Approval | Never | Coverage | ShipOnBudget


class StepApproval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Approval of the step into a stage."""

    stage: int
    by: str


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts for rules that are not part of the evidence.

    Attributes:
        others_in_layer: Releases that run in the same layer; None = unknown.
        missing: Why one of its versions has long been unable to answer, as text; empty = both can.
        waiting: Requests that wait too long for the canary, as text; empty = none known.
        clocks: How the clocks of servers differ, as text; empty = by less than a bucket.
        keeps_share: A person has paused it, and the canary has traffic still.
    """

    approvals: tuple[StepApproval, ...] = ()
    others_in_layer: tuple[str, ...] | None = None
    missing: str = ""
    waiting: str = ""
    clocks: str = ""
    keeps_share: bool = False


class Moment(msgspec.Struct, frozen=True):
    """State of a release, for the rules.

    Attributes:
        at: Unix seconds.
        stage: The stage after a step forward.
        canary_units: Units of the canary so far.
        canary_requests: Requests to the canary so far.
        canary_events: Events of the canary so far, by name.
        hours: Hours of the week in UTC with requests to the canary.
    """

    at: float
    stage: int
    canary_units: int
    canary_requests: int
    canary_events: Mapping[str, int]
    hours: frozenset[int]


class Objection(msgspec.Struct, frozen=True):
    """Decision that a rule demands instead of a step forward, with the reason."""

    decision: Decision
    reason: str


def objections(rules: Sequence[Rule], facts: Facts, moment: Moment) -> list[Objection]:
    """Return the objections of all rules, in order."""
    found = []
    for rule in rules:
        reason = _objection(rule, facts, moment)
        if reason:
            decision = Decision.HOLD
            if isinstance(rule, Never):
                decision = Decision.ROLLBACK
            found.append(Objection(decision, reason))
    return found


def may_ship_on_budget(rules: Sequence[Rule], stage: int) -> bool:
    """Return whether a rule allows the stage to ship on its budget."""
    return any(isinstance(rule, ShipOnBudget) and stage in rule.stages for rule in rules)


def hour_of_week(at: float) -> int:
    """Return the hour of the week in UTC, from 0 (Monday from 0 to 1 o'clock) to 167.

    >>> hour_of_week(0.0)  # a Thursday
    72
    """
    return int(at // 3600 + 72) % _WEEK_HOURS


def _objection(rule: Rule, facts: Facts, moment: Moment) -> str:
    """Return an objection as text; empty = none."""
    match rule:
        case Blackout():
            if rule.covers(moment.at):
                return "there is a blackout now"
            return ""
        case MostUnits(units):
            seen = moment.canary_units
            if seen >= units:
                return f"{seen} units have met the canary, and {units} may"
            return ""
        case OnePerLayer():
            others = facts.others_in_layer
            if others is None:
                return "it is not known which releases run in the same layer"
            if not others:
                return ""
            return f"in the same layer runs {', '.join(others)}"
        case CostCap(most, request):
            cost = request * moment.canary_requests
            if cost > most:
                return f"the release has cost {cost:g}, of {most:g}"
            return ""
        case Approval(stage, by):
            if stage != moment.stage:
                return ""
            return _not_approved(stage, by, facts)
        case Never(event):
            count = moment.canary_events.get(event, 0)
            if not count:
                return ""
            return f"'{event}' must never happen, and did {count} times"
        case Coverage(stage, hours):
            left = sorted(set(hours) - moment.hours) if moment.stage >= stage else []
            if not left:
                return ""
            return f"{len(left)} of {len(hours)} hours of the week are not covered yet"
        case ShipOnBudget():
            return ""


def _not_approved(stage: int, by: Sequence[str], facts: Facts) -> str:
    for approved in facts.approvals:
        if approved.stage == stage and (not by or approved.by in by):
            return ""
    return f"the step into stage {stage + 1} waits for the approval of {' or '.join(by) or 'an operator'}"


def _seconds(time: str) -> int:
    hours, minutes = time.split(":")
    return 3600 * int(hours) + 60 * int(minutes)
