"""Store of posted outcomes of requests and units.

Rows of the ledger: outcomes are stored in one transaction before the answer is sent, and are never changed; a
correction is another row. When they count is decided in ``maturing.py``.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Connection, insert, select

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import EXPOSURE, OUTCOME, PREDICTION, RELEASE
from salver.features.registry.rows import in_force
from salver.features.releases import maturing
from salver.features.releases.judge.record import Release, read_progress
from salver.features.releases.maturing import SKEW_SECONDS, MaturedOutcomes
from salver.words.errors import InvalidInput
from salver.words.releases import Outcome, Receipt, Refused, trait, unit_number

#: Maximum outcomes of one batch.
MOST: Final = 5000
#: Outcomes that are checked on the event loop, in 5 µs each.
_MOST_ON_LOOP: Final = 200
_MOST_LETTERS: Final = 256
_LARGEST: Final = 1e100  # maximum absolute value, so that sums are finite
_AT_ONCE: Final = 500  # parameters of one query
_T = TypeVar("_T")
_Row = dict[str, Any]


class OutcomeStore:
    """Store of outcomes in a ledger.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock

    def __repr__(self) -> str:
        return f"<OutcomeStore in {self._ledger!r}>"

    async def accept(self, outcomes: Sequence[Outcome]) -> Receipt:
        """Store outcomes, each by itself, all in one transaction. They are on disk when this returns.

        Raises:
            InvalidInput: there are too many at once.
            LedgerFailed: none was stored; post them again with the same ids.
        """
        if len(outcomes) > MOST:
            raise InvalidInput(
                f"{len(outcomes)} outcomes at once are too many", fix=f"Post at most {MOST} per request."
            )
        now = self._clock()
        if len(outcomes) <= _MOST_ON_LOOP:
            rows, refused = _checked(outcomes, now)
        else:
            rows, refused = await asyncio.to_thread(_checked, outcomes, now)
        return await self._ledger.write(lambda connection: _accept(connection, rows, refused))

    async def matured(self, release: Release, until: float, written: float) -> MaturedOutcomes:
        """Return outcomes known for certain, of units exposed after the release's watermarks.

        Outcomes of a name are assumed to be complete up to the latest of that name; units whose period ends
        later are not counted.

        Args:
            until, written: Unix seconds; all exposures before ``written`` are in the ledger.
        """
        return await self._ledger.read(
            lambda connection: maturing.matured(connection, release, until, written)
        )


def _checked(outcomes: Sequence[Outcome], now: float) -> tuple[list[_Row], list[Refused]]:
    """Return the rows of valid outcomes, and the errors of the others."""
    rows, refused = [], []
    for outcome in outcomes:
        if fault := _fault(outcome, now):
            refused.append(Refused(outcome.id[:_MOST_LETTERS], fault))
        else:
            rows.append(_row(outcome, now))
    return rows, refused


def _fault(outcome: Outcome, now: float) -> str:
    """Return what is wrong with an outcome; empty = nothing."""
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
        (
            outcome.value is not None and not abs(outcome.value) <= _LARGEST,
            f"its value is not finite, or beyond {_LARGEST:g}",
        ),
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
    # In order, so that an outcome may correct one that stands before it in the same batch.
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
    """Return the outcomes in which a column has one of these values."""
    return [
        dict(row)
        for some in _chunks(values)
        for row in connection.execute(select(OUTCOME).where(column.in_(some))).mappings()
    ]


def _unmatched(connection: Connection, rows: Sequence[_Row]) -> tuple[str, ...]:
    """Return ids of outcomes whose request or unit is unknown to every active release that stores them."""
    columns = (RELEASE.c.id, RELEASE.c.ended, RELEASE.c.progress)
    live = [
        row.id
        for row in connection.execute(in_force(columns))
        if row.ended is None or read_progress(row.progress).watched_until is not None
    ]
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
