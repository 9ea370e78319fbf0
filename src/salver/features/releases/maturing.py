"""Outcomes of a release that count now.

Cohorts of exposed units whose outcome period is over and whose outcomes have been posted: the number in each
arm, and the events or sums of values. Queries of the ledger; evaluation is elsewhere.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, FromClause, Select, case, exists, func, literal, or_, select

from salver.features.ledger.schema import EXPOSURE, OUTCOME, PREDICTION
from salver.features.releases.judge.policy import Metric
from salver.features.releases.judge.record import Release
from salver.words.releases import ARMS, Counts, OutcomeCohort, Sums, plus

#: Tolerance for differing clocks: an immediate outcome may seem to precede its exposure.
SKEW_SECONDS: Final = 60.0
#: Seconds before the first exposure whose values explain some of the later ones.
PAST_DAYS: Final = 14.0
_AT_ONCE: Final = 10_000  # rows read at once
_Keys = Sequence[ColumnElement[int]] | Select[Any]


class MaturedOutcomes(msgspec.Struct, frozen=True):
    """Matured outcomes.

    Attributes:
        watermarks: By metric, the time of exposure up to which they are included.
        late_seconds: Delay of posted outcomes.
    """

    outcomes: tuple[OutcomeCohort, ...] = ()
    watermarks: Mapping[str, float] = msgspec.field(default_factory=dict)
    late_seconds: float = 0.0


def matured(connection: Connection, release: Release, until: float, written: float) -> MaturedOutcomes:
    """See :meth:`salver.features.releases.outcomes.OutcomeStore.matured`."""
    began = _began(connection, release.id)
    outcomes: list[OutcomeCohort] = []
    watermarks: dict[str, float] = {}
    late = 0.0
    for metric in release.policy.metrics:
        if not metric.is_posted or began is None:
            continue
        window = 60 * metric.matures_minutes
        # Assumed: posted in the order of their times, so that none is missing up to the newest.
        newest = connection.scalar(
            select(func.max(OUTCOME.c.event_time)).where(OUTCOME.c.name == metric.name)
        )
        newest = -math.inf if newest is None else newest
        late = max(late, until - max(newest, began + window))
        after = release.progress.watermarks.get(metric.name, -math.inf)
        through = min(until - window, newest - window, math.nextafter(written, -math.inf))
        if through > after:
            find = _of_cohort
            if metric.kind == "mean":
                find = _brought
            outcomes += find(connection, release.id, metric, (max(after, began - 1), through))
            watermarks[metric.name] = through
    return MaturedOutcomes(tuple(outcomes), watermarks, late)


def _began(connection: Connection, release: str) -> float | None:
    """Return when its first unit, or request without one, was seen."""
    found = [
        connection.scalar(select(func.min(table.c.time)).where(table.c.release == release))
        for table in (EXPOSURE, PREDICTION)
    ]
    return min((time for time in found if time is not None), default=None)


def _of_cohort(
    connection: Connection, release: str, metric: Metric, between: tuple[float, float]
) -> list[OutcomeCohort]:
    """Return units first seen in (after, through], by the share in force."""
    of_request = exists().where(*_happened(metric, "prediction", PREDICTION.c.request, EXPOSURE.c.time))
    by_request = exists().where(
        PREDICTION.c.release == release,
        PREDICTION.c.unit == EXPOSURE.c.unit,
        of_request.correlate(PREDICTION, EXPOSURE),
    )
    by_unit = exists().where(*_happened(metric, "unit", EXPOSURE.c.unit, EXPOSURE.c.time))
    alone = exists().where(*_happened(metric, "prediction", PREDICTION.c.request, PREDICTION.c.time))
    is_alone = PREDICTION.c.unit == PREDICTION.c.request
    units: dict[float, dict[str, int]] = {}
    events: dict[float, dict[str, int]] = {}
    latest: dict[float, float] = {}
    for query in (
        _counted(EXPOSURE, release, between, or_(by_unit, by_request)).where(EXPOSURE.c.is_first == 1),
        _counted(PREDICTION, release, between, alone).where(is_alone),
    ):
        for arm, share, time, of_arm, met in connection.execute(query):
            latest[share] = max(latest.get(share, time), time)
            for counts, more in ((units, of_arm), (events, met)):
                by_arm = counts.setdefault(share, {})
                by_arm[arm] = by_arm.get(arm, 0) + int(more)
    return [
        OutcomeCohort(metric.name, latest[share], share, _counts(units[share]), _counts(events[share]))
        for share in sorted(units)
    ]


def _brought(
    connection: Connection, release: str, metric: Metric, between: tuple[float, float]
) -> list[OutcomeCohort]:
    """Return the same units, with the sum of the outcomes of each.

    One query per step: in a query for sums of sums, a database searches each unit's outcomes repeatedly.
    """
    window, since, at = 60 * metric.matures_minutes, EXPOSURE.c.time, PREDICTION.c.time
    own, before = (since - SKEW_SECONDS, since + window), since - SKEW_SECONDS - 86_400 * PAST_DAYS
    asked = PREDICTION.alias()
    mine = select(asked.c.request).where(asked.c.release == release, asked.c.unit == EXPOSURE.c.unit)
    mine = mine.correlate(EXPOSURE)
    by_unit, past = (_total(metric, "unit", [EXPOSURE.c.unit], time) for time in (own, (before, own[0])))
    by_request = _total(metric, "prediction", mine, own)
    named = [query.correlate(EXPOSURE).scalar_subquery() for query in (by_unit, by_request, past)]
    alone = _total(metric, "prediction", [PREDICTION.c.request], (at - SKEW_SECONDS, at + window))
    units = _units(EXPOSURE, release, between, named[0] + named[1], named[2])
    nameless = _units(
        PREDICTION, release, between, alone.correlate(PREDICTION).scalar_subquery(), literal(0.0)
    ).where(PREDICTION.c.unit == PREDICTION.c.request)
    sums: dict[float, dict[str, list[float]]] = {}
    latest: dict[float, float] = {}
    streamed = connection.execution_options(yield_per=_AT_ONCE)
    for query in (units.where(EXPOSURE.c.is_first == 1), nameless):
        for arm, share, time, value, earlier in streamed.execute(query):
            latest[share] = max(latest.get(share, time), time)
            of_arm = sums.setdefault(share, {}).setdefault(arm, [0.0] * 8)
            # Capped, so that one unit cannot decide; the past value y explains a part of x.
            x, y = (max(-metric.cap, min(metric.cap, each)) for each in (value, earlier))
            for place, term in enumerate((1, x != 0, x, x * x, x * x * x, y, y * y, x * y)):
                of_arm[place] += term
    return [_summed(metric.name, latest[share], share, sums[share]) for share in sorted(sums)]


def _total(
    metric: Metric, kind: str, keys: _Keys, between: tuple[ColumnElement[float], ColumnElement[float]]
) -> Select[Any]:
    """Return the sum of the values of these outcomes."""
    outcome, are_meant = _outcomes(metric, kind, keys, between)
    return select(func.coalesce(func.sum(outcome.c.value), 0.0)).where(*are_meant)


def _units(
    table: FromClause,
    release: str,
    between: tuple[float, float],
    value: ColumnElement[float],
    past: ColumnElement[float],
) -> Select[Any]:
    columns = table.c
    return select(columns.arm, columns.propensity, columns.time, value, past).where(
        columns.release == release, columns.time > between[0], columns.time <= between[1]
    )


def _summed(name: str, latest: float, share: float, by_arm: Mapping[str, Sequence[float]]) -> OutcomeCohort:
    found = []
    for arm in ARMS:
        units, events, *totals = by_arm.get(arm.value, [0.0] * 8)
        found.append(Sums(int(units), int(events), *totals))
    canary, baseline, stable = found
    units_of, events_of = Counts(*(arm.units for arm in found)), Counts(*(arm.events for arm in found))
    return OutcomeCohort(name, latest, share, units_of, events_of, (canary, plus(baseline, stable)))


def _counted(
    table: FromClause, release: str, between: tuple[float, float], happened: ColumnElement[bool]
) -> Select[Any]:
    columns = table.c
    return (
        select(
            columns.arm,
            columns.propensity,
            func.max(columns.time),
            func.count(),
            func.sum(case((happened, 1), else_=0)),
        )
        .where(columns.release == release, columns.time > between[0], columns.time <= between[1])
        .group_by(columns.arm, columns.propensity)
    )


def _happened(
    metric: Metric, kind: str, key: ColumnElement[int], since: ColumnElement[float]
) -> list[ColumnElement[bool]]:
    """Return a condition: the outcome of the key is an event and arrived in time."""
    between = since - SKEW_SECONDS, since + 60 * metric.matures_minutes
    outcome, are_meant = _outcomes(metric, kind, [key], between)
    value, least, most = outcome.c.value, metric.least, metric.most
    if least is None and most is None:
        are_meant.append(value > 0)
    if least is not None:
        are_meant.append(value >= least)
    if most is not None:
        are_meant.append(value <= most)
    return are_meant


def _outcomes(
    metric: Metric, kind: str, keys: _Keys, between: tuple[ColumnElement[float], ColumnElement[float]]
) -> tuple[FromClause, list[ColumnElement[bool]]]:
    """Return outcomes of these keys in (first, last] that have not been superseded."""
    outcome, later = OUTCOME.alias(), OUTCOME.alias()
    return outcome, [
        outcome.c.key_kind == kind,
        outcome.c.key.in_(keys),
        outcome.c.name == metric.name,
        outcome.c.event_time > between[0],
        outcome.c.event_time <= between[1],
        ~exists().where(later.c.supersedes == outcome.c.id),
    ]


def _counts(by_arm: Mapping[str, int]) -> Counts:
    return Counts(*(by_arm.get(arm.value, 0) for arm in ARMS))
