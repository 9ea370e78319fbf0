"""Exchange of counts between servers through the ledger.

Rows of the ledger. A part of a window is stored with its units in one transaction. A unit that another server
has already counted is not counted again (``distinct_units.py``), nor is the first of its events, of which
there is one row regardless of the server. Parts are merged in ``features/releases/experiments/windows.py``.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    any_,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from salver.features.ledger import rows
from salver.features.ledger.schema import (
    EXPOSURE,
    FAILING_UNIT,
    FIRST_EVENT,
    PART,
    PREDICTION,
    RELEASE,
    WITNESS,
)
from salver.features.releases.distinct_units import DistinctUnits, meet
from salver.features.releases.experiments.windows import CountingServer, WindowPart
from salver.features.releases.judge.record import read_progress
from salver.words.releases import (
    ARMS,
    FIRSTS,
    MOST_BLOCKS,
    NO_STAGE,
    Bucket,
    BucketObservations,
    Counts,
    UnitObservations,
    kept_in,
)

_encode: Final = msgspec.json.Encoder().encode
#: Parsers of stored JSON; they raise msgspec.MsgspecError.
read_bucket: Final = msgspec.json.Decoder(Bucket).decode
_Numbers = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]
_NOW: Final = select(func.extract("epoch", func.clock_timestamp()))
_NO_BLOCK: Final = -(1 << 62)
_NEAR: Final = 1e-6  # of a block, for starts that are rounded


def attend(connection: Connection, release: str, server: str, now: float) -> int:
    """Register a server that counts a release, so that others wait for its parts.

    Returns:
        Number of parts that it has already stored.
    """
    rows.add(connection, WITNESS, {"release": [release], "server": server, "parts": 0, "until": now})
    mine = (WITNESS.c.release == release, WITNESS.c.server == server)
    return int(connection.execute(select(WITNESS.c.parts).where(*mine)).scalar_one())


def leave(connection: Connection, server: str) -> None:
    """Unregister a server from all releases."""
    connection.execute(update(WITNESS).where(WITNESS.c.server == server).values(has_left=1))


def witnesses(connection: Connection, releases: Sequence[str]) -> dict[str, tuple[CountingServer, ...]]:
    """Return by release the servers that count it; none before it starts and after it ends."""
    query = (
        select(WITNESS.c.release, WITNESS.c.server, WITNESS.c.until, WITNESS.c.ahead)
        .where(WITNESS.c.release.in_(releases), WITNESS.c.has_left == 0)
        .order_by(WITNESS.c.release, WITNESS.c.server)
    )
    found: dict[str, tuple[CountingServer, ...]] = dict.fromkeys(releases, ())
    for release, *witness in connection.execute(query):
        found[release] += (CountingServer(*witness),)
    return found


class ExchangeProgress(NamedTuple):
    """Progress of a server's exchange about a release.

    Attributes:
        parts: Number of parts stored.
        crowd: See :attr:`salver.features.releases.distinct_units.DistinctUnits.last`.
        keeps_units: Each unit has a row of its own, because outcomes may be posted for it.
        block_seconds: Length of a block of time (:data:`salver.words.releases.BLOCK_BUCKETS`).
    """

    parts: int = 0
    crowd: int = 0
    keeps_units: bool = False
    block_seconds: float = 60.0


def hand_in(
    connection: Connection,
    server: str,
    release: str,
    told: ExchangeProgress,
    seen: Sequence[BucketObservations],
    clock: Callable[[], float] | None = None,
) -> DistinctUnits:
    """Store parts that a server has counted, with their units, unless the release has ended.

    Args:
        told: Progress before these parts; parts already stored are not stored twice.
        clock: Unix seconds by the server; None = it is not compared with the ledger's.

    Returns:
        What others have stored meanwhile.
    """
    mine = (WITNESS.c.release == release, WITNESS.c.server == server)
    known = connection.scalar(select(WITNESS.c.parts).where(*mine))
    # Forgotten or ended meanwhile: storing would count for nobody.
    if known is None or not _goes_on(connection, release):
        return DistinctUnits({}, told.crowd)
    parts, last = [], told.crowd
    others: defaultdict[int, list[_Numbers]] = defaultdict(list)
    for number, each in enumerate(seen, told.parts):
        if number >= known:  # else it was stored, and the answer was lost
            is_first, stage = each.exposures.are_first == 1, each.bucket.stage
            units = {stage: each.met.units, NO_STAGE: each.exposures.units[is_first]}
            are_new, (stored, last) = meet(connection, release, units, each.heard, last)
            for its, some in stored.items():
                others[its].append(some)
            is_first[is_first] = are_new[NO_STAGE]
            bucket = _told_apart(connection, each, is_first, are_new[stage], keeps_units=told.keeps_units)
            blocks = _blocks(connection, each, told.block_seconds)
            body = _encode(msgspec.structs.replace(bucket, blocks=blocks)).decode()
            parts.append({"release": release, "server": server, "number": number, "body": body})
    if parts:
        connection.execute(insert(PART), parts)
        until = max(each.bucket.start + each.bucket.seconds for each in seen)
        counts = {"parts": told.parts + len(seen), "until": until, "ahead": _ahead(connection, mine, clock)}
        connection.execute(update(WITNESS).where(*mine).values(counts))
    return DistinctUnits({stage: np.concatenate(some) for stage, some in others.items()}, last)


def waiting(connection: Connection) -> dict[str, tuple[list[WindowPart], list[CountingServer]]]:
    """Return by release the parts that have not been judged, and the servers that will store more."""
    found: dict[str, tuple[list[WindowPart], list[CountingServer]]] = {}
    last = None
    for release, server, until, ahead, has_left, number, body in connection.execute(_TOLD):
        parts, witnesses = found.setdefault(release, ([], []))
        if not has_left and (release, server) != last:
            witnesses.append(CountingServer(server, until, ahead))
        if number is not None:
            parts.append(WindowPart(server, number, read_bucket(body)))
        last = release, server
    return found


_ITS_PARTS: Final = (PART.c.release == WITNESS.c.release) & (PART.c.server == WITNESS.c.server)
_TOLD: Final = (
    select(
        WITNESS.c.release,
        WITNESS.c.server,
        WITNESS.c.until,
        WITNESS.c.ahead,
        WITNESS.c.has_left,
        PART.c.number,
        PART.c.body,
    )
    .select_from(WITNESS.outerjoin(PART, _ITS_PARTS))
    .order_by(WITNESS.c.release, WITNESS.c.server, PART.c.number)
)


def judged(connection: Connection, release: str, parts: Iterable[WindowPart]) -> None:
    """Delete parts that have been judged."""
    keys = [{"server_": part.server, "number_": part.number} for part in parts]
    if keys:
        its = (PART.c.release == release, PART.c.server == bindparam("server_"))
        connection.execute(delete(PART).where(*its, PART.c.number == bindparam("number_")), keys)


def forget(connection: Connection, release: str) -> None:
    """Delete the exchange data of an ended release."""
    for table in (PART, WITNESS):
        connection.execute(delete(table).where(table.c.release == release))


def _ahead(
    connection: Connection, mine: Sequence[ColumnElement[bool]], clock: Callable[[], float] | None
) -> float:
    """Return how far the clock of a server is ahead of the database's.

    SQLite uses the machine's. There the result is negative if another server reported of a later time.
    """
    if clock is None:
        return 0.0
    if connection.dialect.name == "sqlite":
        is_its, is_mine = mine
        latest = connection.scalar(
            select(func.max(WITNESS.c.until)).where(is_its, ~is_mine, WITNESS.c.has_left == 0)
        )
        return 0.0 if latest is None else min(0.0, clock() - latest)
    before = clock()
    now = float(connection.execute(_NOW).scalar_one())
    return (before + clock()) / 2 - now


def _goes_on(connection: Connection, release: str) -> bool:
    """Return a condition: it has not ended, or is watched after its promotion."""
    row = connection.execute(
        select(RELEASE.c.ended, RELEASE.c.progress).where(RELEASE.c.id == release)
    ).first()
    return row is not None and (row.ended is None or read_progress(row.progress).watched_until is not None)


def _told_apart(
    connection: Connection,
    seen: BucketObservations,
    is_first: _Flags,
    is_met: _Flags,
    *,
    keeps_units: bool,
) -> Bucket:
    """Store what is new, and return counts of only that.

    Args:
        is_first: Mask of the exposures of units seen for the first time anywhere.
        is_met: Mask of the units seen for the first time in a later stage.
    """
    bucket, release, exposures = seen.bucket, {"release": seen.release}, seen.exposures
    share = {**release, "stage": bucket.stage, "propensity": bucket.share}
    if keeps_units:
        each = msgspec.structs.replace(exposures, are_first=is_first.view(np.uint8))
        rows.add(connection, EXPOSURE, {**_columns(each, "units"), **share})
    happened: dict[tuple[str, str], Counts] = {}
    for name, first in seen.firsts.items():
        its = {**release, "metric": name}
        metric, field, _ = kept_in(name)
        happened[metric, field] = _in_arms(first, _known(connection, FIRST_EVENT, its, first.units))
        rows.add(connection, FIRST_EVENT, {**_columns(first, "units"), **its})
    rows.add(connection, PREDICTION, {**_columns(seen.predictions, "requests"), **share})
    again = (exposures.are_first == 1) & ~is_first
    events = {
        field: {
            metric: _less(some, happened.get((metric, field), Counts()))
            for metric, some in getattr(bucket, field).items()
        }
        for field in FIRSTS
    }
    known = _in_arms(exposures, again)
    fewer = _less(bucket.exposures, known)
    if bucket.stage:
        known = _in_arms(seen.met, ~is_met)
    return msgspec.structs.replace(bucket, exposures=fewer, met=_less(bucket.met, known), **events)


def _blocks(
    connection: Connection, seen: BucketObservations, seconds: float
) -> dict[str, tuple[Counts, ...]]:
    """Store in how many blocks of time units have failed, and return :attr:`Bucket.blocks`."""
    bucket = seen.bucket
    block = math.floor(bucket.start / seconds + _NEAR)
    found = dict(bucket.blocks)
    for metric, failing in seen.failing.items():
        units, first = np.unique(failing.units, return_index=True)
        its = {"release": seen.release, "metric": metric, "stage": bucket.stage}
        columns = FAILING_UNIT.c.unit, FAILING_UNIT.c.blocks, FAILING_UNIT.c.last
        query = select(*columns).where(*_chosen(connection, FAILING_UNIT, its, units))
        known = {unit: (blocks, last) for unit, blocks, last in connection.execute(query)}
        before = [known.get(unit, (0, _NO_BLOCK)) for unit in units.tolist()]
        is_new = np.array([last != block for _, last in before], np.bool_)
        places = np.array([blocks for blocks, _ in before])[is_new]
        arms = failing.arms[first][is_new]
        latest = np.maximum([last for _, last in before], block)[is_new]
        rows.add(
            connection,
            FAILING_UNIT,
            {
                **its,
                "unit": units[is_new].tolist(),
                "arm": [ARMS[arm].value for arm in arms],
                "blocks": (places + 1).tolist(),
                "last": latest.tolist(),
            },
            replaces=True,
        )
        counts = np.zeros((MOST_BLOCKS, len(ARMS)), np.int64)
        np.add.at(counts, (np.minimum(places, MOST_BLOCKS - 1), arms), 1)
        counts[0] += msgspec.structs.astuple(found.get(metric, (Counts(),))[0])
        last = int(np.flatnonzero(counts.any(axis=1)).max(initial=0))
        found[metric] = tuple(Counts(*by_arm) for by_arm in counts[: last + 1].tolist())
    return found


def _known(connection: Connection, table: Table, same: Mapping[str, Any], units: _Numbers) -> _Flags:
    """Return which of these units already have a row, in any arm."""
    query = select(table.c.unit).where(*_chosen(connection, table, same, units))
    found = list(connection.scalars(query)) if len(units) else []
    return np.isin(units, np.array(found, np.int64))


def _chosen(
    connection: Connection, table: Table, same: Mapping[str, Any], units: _Numbers
) -> list[ColumnElement[bool]]:
    """Return the conditions of rows of these units."""
    chosen = [table.c[name] == value for name, value in same.items()]
    if connection.dialect.name == "sqlite":  # either way they are one parameter
        numbers = msgspec.json.encode(units.tolist()).decode()
        chosen.append(table.c.unit.in_(select(func.json_each(numbers).table_valued("value").c.value)))
    else:
        array = bindparam(None, units.tolist(), type_=postgresql.ARRAY(BigInteger))
        chosen.append(table.c.unit == any_(array))
    return chosen


def _in_arms(met: UnitObservations, chosen: _Flags) -> Counts:
    return Counts(*np.bincount(met.arms[chosen], minlength=len(ARMS)).tolist())


def _less(counts: Counts, fewer: Counts) -> Counts:
    return Counts(
        counts.canary - fewer.canary, counts.baseline - fewer.baseline, counts.stable - fewer.stable
    )


_COLUMNS: Final = {"units": "unit", "are_first": "is_first", "times": "time", "requests": "request"}


def _columns(met: UnitObservations, key: str) -> dict[str, list[Any]]:
    """Return columns of the tables in the order of the key, which matches their index."""
    order = np.argsort(getattr(met, key))  # SQLite writes rows that are close together faster
    found = {
        name: getattr(met, field)[order].tolist() for field, name in _COLUMNS.items() if hasattr(met, field)
    }
    return {**found, "arm": [ARMS[place].value for place in met.arms[order].tolist()]}
