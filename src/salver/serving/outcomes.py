"""What became of requests and units, as others post it later, and which of it counts for a release now?

Rows of the ledger: an outcome is taken with its neighbours in one transaction, before anybody is told so, and
is never changed; what corrects it is another row. A unit counts once, in the arm that it met first, when its
time is over. What the counts prove is not known here.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    case,
    exists,
    func,
    insert,
    or_,
    select,
)

from salver.errors import InvalidInput
from salver.ledger import Ledger
from salver.ledger.schema import EXPOSURE, OUTCOME, PREDICTION, RELEASE
from salver.releases import Arm, Counts, Matured, Outcome, Receipt, Refused, trait, unit_number
from salver.rollout.policy import Metric
from salver.rollout.record import Release
from salver.rollout.states import ENDED
from salver.serving.releases import Harvest

#: Outcomes of one batch.
MOST: Final = 5000
_MOST_LETTERS: Final = 256
#: By how much the clocks of others may differ from ours: what happens at once seems to happen before.
SKEW_SECONDS: Final = 60.0
_AT_ONCE: Final = 500  # parameters of one query
_T = TypeVar("_T")
_Row = dict[str, Any]


class OutcomeStore:
    """Outcomes in a ledger.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock

    def __repr__(self) -> str:
        return f"<OutcomeStore in {self._ledger!r}>"

    async def accept(self, outcomes: Sequence[Outcome]) -> Receipt:
        """Take them: each by itself, all in one transaction. They are on disk when this returns.

        Raises:
            InvalidInput: there are too many at once.
            LedgerFailed: none was taken; post them again, with the same ids.
        """
        if len(outcomes) > MOST:
            raise InvalidInput(
                f"{len(outcomes)} outcomes at once are too many", fix=f"Post {MOST} at most, again and again."
            )
        now = self._clock()
        rows, refused = [], []
        for outcome in outcomes:
            if fault := _fault(outcome, now):
                refused.append(Refused(outcome.id[:_MOST_LETTERS], fault))
            else:
                rows.append(_row(outcome, now))
        return await self._ledger.write(lambda connection: _accept(connection, rows, refused))

    async def matured(self, release: Release, until: float, written: float) -> Harvest:
        """See :class:`salver.serving.releases.Outcomes`.

        Outcomes of a name are taken to be complete up to the latest of that name; nobody is counted whose
        time ends after it.
        """
        return await self._ledger.read(lambda connection: _matured(connection, release, until, written))


def _fault(outcome: Outcome, now: float) -> str:
    """What is wrong about it; empty = nothing."""
    is_of_all = not (outcome.request or outcome.unit)
    for wrong, what in (
        (not (outcome.id and outcome.name), "it has no id or no name"),
        (
            any(len(text) > _MOST_LETTERS for text in (outcome.id, outcome.name, outcome.source)),
            f"its id, name or source has more than {_MOST_LETTERS} letters",
        ),
        (
            "\0" in f"{outcome.id}{outcome.name}{outcome.source}{outcome.supersedes}",
            "a text of it holds the letter 0",
        ),
        (bool(outcome.request and outcome.unit), "it names a request and a unit: name one of them"),
        (
            is_of_all and outcome.value is not None,
            "it has a value, and names neither a request nor a unit",
        ),
        (is_of_all and bool(outcome.supersedes), "what is said of all is not corrected"),
        (not is_of_all and outcome.value is None, "it has no value"),
        (outcome.value is not None and not math.isfinite(outcome.value), "its value is not finite"),
        (outcome.supersedes == outcome.id != "", "it corrects itself"),
        (
            outcome.time is not None and not 0 <= outcome.time <= now + SKEW_SECONDS,
            f"its time, {outcome.time}, is not in Unix seconds, or has not come",
        ),
    ):
        if wrong:
            return what
    return ""


def _row(outcome: Outcome, now: float) -> _Row:
    kind, key = "all", 0
    if outcome.unit:
        kind, key = "unit", unit_number(trait(outcome.unit))
    elif outcome.request:
        kind, key = "prediction", unit_number(outcome.request)
    return {
        "id": outcome.id,
        "key_kind": kind,
        "key": key,
        "name": outcome.name,
        "value": outcome.value or 0.0,
        "event_time": now if outcome.time is None else outcome.time,
        "is_timed": outcome.time is not None,
        "ingest_time": now,
        "source": outcome.source,
        "supersedes": outcome.supersedes or None,
    }


def _accept(connection: Connection, rows: Sequence[_Row], refused: Sequence[Refused]) -> Receipt:
    known = {row["id"]: row for row in _found(connection, OUTCOME.c.id, (row["id"] for row in rows))}
    corrected = {row["supersedes"] for row in rows if row["supersedes"]}
    by = {row["supersedes"]: row["id"] for row in _found(connection, OUTCOME.c.supersedes, corrected)}
    before = {row["id"]: row for row in _found(connection, OUTCOME.c.id, corrected)}
    new, refusals, duplicates = [], list(refused), 0
    for row in rows:
        why = ""
        if (other := known.get(row["id"])) is not None:
            if not (differ := _differences(other, row)):
                duplicates += 1
                continue
            why = f"there is another outcome of this id, with another {', '.join(differ)}"
        elif (correction := by.get(row["supersedes"])) is not None:
            why = f"'{row['supersedes']}' is corrected by '{correction}' already: correct that one"
        elif (old := {**before, **known}.get(row["supersedes"])) and _differences(old, row, _SAME):
            why = f"it corrects '{old['id']}', which is of another name, request or unit"
        if why:
            refusals.append(Refused(row["id"], why))
            continue
        known[row["id"]] = row
        if row["supersedes"]:
            by[row["supersedes"]] = row["id"]
        new.append(row)
    if new:
        connection.execute(
            insert(OUTCOME), [{k: v for k, v in row.items() if k != "is_timed"} for row in new]
        )
    return Receipt(len(new), duplicates, _unmatched(connection, new), tuple(refusals))


_SAME: Final = ("key_kind", "key", "name")


def _differences(known: Mapping[str, Any], row: _Row, fields: Iterable[str] = ()) -> list[str]:
    fields = fields or (*_SAME, "value", "source", "supersedes", *(["event_time"] if row["is_timed"] else []))
    return [field for field in fields if known[field] != row[field]]


def _found(connection: Connection, column: ColumnElement[Any], values: Iterable[Any]) -> list[_Row]:
    """Outcomes of which a column has one of these values."""
    return [
        dict(row)
        for some in _chunks(values)
        for row in connection.execute(select(OUTCOME).where(column.in_(some))).mappings()
    ]


def _unmatched(connection: Connection, rows: Sequence[_Row]) -> tuple[str, ...]:
    """Ids of those whose request or unit no release that is not over has met."""
    ended = [state.value for state in ENDED]
    live = list(connection.scalars(select(RELEASE.c.id).where(RELEASE.c.state.not_in(ended))))
    missing = []
    for kind, table, column in (
        ("unit", EXPOSURE, EXPOSURE.c.unit),
        ("prediction", PREDICTION, PREDICTION.c.request),
    ):
        of_kind = [row for row in rows if row["key_kind"] == kind]
        met: set[int] = set()
        for some in _chunks(row["key"] for row in of_kind):
            for release in live:
                met |= set(
                    connection.scalars(select(column).where(table.c.release == release, column.in_(some)))
                )
        missing += [row["id"] for row in of_kind if row["key"] not in met]
    return tuple(missing)


def _chunks(things: Iterable[_T]) -> Iterator[list[_T]]:
    some = list(dict.fromkeys(things))
    for start in range(0, len(some), _AT_ONCE):
        yield some[start : start + _AT_ONCE]


def _matured(connection: Connection, release: Release, until: float, written: float) -> Harvest:
    began = _began(connection, release.id)
    outcomes: list[Matured] = []
    watermarks: dict[str, float] = {}
    late = 0.0
    for metric in release.policy.metrics:
        if metric.kind != "outcome" or began is None:
            continue
        window = 60 * metric.matures_minutes
        newest = connection.scalar(
            select(func.max(OUTCOME.c.event_time)).where(OUTCOME.c.name == metric.name)
        )
        newest = -math.inf if newest is None else newest
        late = max(late, until - max(newest, began + window))
        after = release.progress.watermarks.get(metric.name, -math.inf)
        through = min(until - window, newest - window, math.nextafter(written, -math.inf))
        if through > after:
            outcomes += _of_cohort(connection, release.id, metric, (max(after, began - 1), through))
            watermarks[metric.name] = through
    return Harvest(tuple(outcomes), watermarks, late)


def _began(connection: Connection, release: str) -> float | None:
    """When its first unit, or request without one, was seen."""
    found = [
        connection.scalar(select(func.min(table.c.time)).where(table.c.release == release))
        for table in (EXPOSURE, PREDICTION)
    ]
    return min((time for time in found if time is not None), default=None)


def _of_cohort(
    connection: Connection, release: str, metric: Metric, between: tuple[float, float]
) -> list[Matured]:
    """Units that were seen first in (after, through], by the share that was in force."""
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
        Matured(metric.name, latest[share], share, _counts(units[share]), _counts(events[share]))
        for share in sorted(units)
    ]


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
    """Of an outcome of the key: it is an event, came in time, and is the last word on it."""
    outcome, later = OUTCOME.alias(), OUTCOME.alias()
    least, most = metric.least, metric.most
    value = outcome.c.value
    conditions = [value > 0] if least is None and most is None else []
    conditions += [] if least is None else [value >= least]
    conditions += [] if most is None else [value <= most]
    return [
        outcome.c.key_kind == kind,
        outcome.c.key == key,
        outcome.c.name == metric.name,
        outcome.c.event_time >= since - SKEW_SECONDS,
        outcome.c.event_time <= since + 60 * metric.matures_minutes,
        *conditions,
        ~exists().where(later.c.supersedes == outcome.c.id),
    ]


def _counts(by_arm: Mapping[str, int]) -> Counts:
    return Counts(*(by_arm.get(arm.value, 0) for arm in (Arm.CANARY, Arm.BASELINE, Arm.STABLE)))
