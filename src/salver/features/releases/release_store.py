"""Store of releases in the ledger.

Everything in one step is one transaction: the bucket, the evidence after it, the decision, the new
weight, the alias that moves. After a crash the last step is complete, and nothing is counted twice; if
several servers take the same step, one succeeds. It decides nothing.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from sqlalchemy import Connection, and_, delete, insert, or_, select, tuple_

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import (
    BUCKET,
    CROWD,
    DECISION,
    EXPOSURE,
    FAILING_UNIT,
    FIRST_EVENT,
    PREDICTION,
    RELEASE,
    WISH,
)
from salver.features.registry.aliases import check_guard
from salver.features.registry.audit import Change
from salver.features.registry.records import Actor
from salver.features.releases import window_exchange as handing_in
from salver.features.releases.carriers import Carrier, carriers
from salver.features.releases.distinct_units import DistinctUnits, met
from salver.features.releases.experiments.windows import CountingServer
from salver.features.releases.judge.policy import MOST_DAYS
from salver.features.releases.judge.record import Release, What
from salver.features.releases.release_rows import (
    Look,
    ReleaseSnapshot,
    Step,
    check,
    commit,
    entry_of,
    picture,
    propose,
    release_of,
)
from salver.features.releases.window_exchange import ExchangeProgress
from salver.words.errors import NotFound
from salver.words.releases import NO_STAGE, BucketObservations, ReleaseState

_AT_ONCE: Final = 10_000  # rows read at once
_MOST_LISTED: Final = 1000
_DAY_SECONDS: Final = 86_400.0
_OF_UNITS: Final = (PREDICTION, FIRST_EVENT, FAILING_UNIT, EXPOSURE, CROWD)


class ReleaseStore:
    """Releases in a ledger.

    Args:
        clock: Unix seconds by this server, to be compared with the ledger's clock; None = it is not.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] | None = None) -> None:
        self._ledger = ledger
        self._clock = clock

    def __repr__(self) -> str:
        return f"<ReleaseStore in {self._ledger!r}>"

    async def propose(self, release: Release, actor: Actor) -> None:
        """Store a new release.

        Raises:
            Conflict: its model has an active release of the same alias.
            Forbidden: the alias is protected from this actor.
        """
        change = Change(actor, release.created, release.why)
        await self._ledger.write(lambda connection: propose(connection, release, change))

    async def check(self, release: Release, actor: Actor) -> None:
        """Check whether it could be proposed now. Raises what :meth:`propose` does."""
        change = Change(actor, release.created, release.why)
        await self._ledger.read(lambda connection: check(connection, release, change))

    async def picture(self) -> ReleaseSnapshot:
        """Return all pending work from one state of the ledger."""
        return await self._ledger.read(picture)

    async def get(self, release: str) -> Release:
        """Return a release; raises NotFound."""

        def read(connection: Connection) -> Release:
            row = connection.execute(select(RELEASE).where(RELEASE.c.id == release)).mappings().first()
            if row is None:
                raise NotFound(f"there is no release '{release}'", fix="`salver rollout status` lists them.")
            return release_of(row)

        return await self._ledger.read(read)

    async def listed(
        self,
        model: str = "",
        *,
        canary: str = "",
        state: ReleaseState | None = None,
        is_live: bool | None = None,
        after: str = "",
        most: int = _MOST_LISTED,
    ) -> tuple[Release, ...]:
        """Return the releases of a model, or all; the newest first.

        Args:
            canary: Only this new version; empty = all.
            state: Only this state; None = any.
            is_live: Only active ones, or only ended ones; None = both.
            after: Only those after this existing one in the list; empty = from the newest.
        """
        query = select(RELEASE).order_by(RELEASE.c.created.desc(), RELEASE.c.id).limit(most)
        if model:
            query = query.where(RELEASE.c.model == model)
        if canary:
            query = query.where(RELEASE.c.canary == canary)
        if state is not None:
            query = query.where(RELEASE.c.state == state.value)
        if is_live is not None:
            query = query.where(RELEASE.c.ended.is_(None) if is_live else RELEASE.c.ended.is_not(None))
        if after:
            made = select(RELEASE.c.created).where(RELEASE.c.id == after).scalar_subquery()
            is_older = or_(RELEASE.c.created < made, and_(RELEASE.c.created == made, RELEASE.c.id > after))
            query = query.where(is_older)
        return await self._ledger.read(
            lambda connection: tuple(release_of(row) for row in connection.execute(query).mappings())
        )

    async def wish(self, release: str, what: What, actor: Actor, why: str, now: float) -> int:
        """Store a change request, which a server processes on its next tick.

        Raises:
            NotFound: there is no such release.
            Forbidden: its alias is protected from this actor, who may only stop the release.
        """
        found = await self.get(release)
        row = {"release": release, "what": what, "by": actor.name, "why": why, "time": now}

        def write(connection: Connection) -> int:
            if found.alias and what not in ("abort", "pause"):
                check_guard(connection, Change(actor, now, why), found.model, found.alias)
            return int(connection.execute(insert(WISH).values(row).returning(WISH.c.id)).scalar_one())

        return await self._ledger.write(write)

    async def answer(self, wish: int) -> str | None:
        """Return the answer to a request; empty = done; None = not processed yet."""
        query = select(WISH.c.done, WISH.c.answer).where(WISH.c.id == wish)

        def read(connection: Connection) -> str | None:
            done, answer = connection.execute(query).one()
            return None if done is None else str(answer)

        return await self._ledger.read(read)

    async def attend(self, release: str, server: str, now: float) -> int:
        """Register a server that counts a release.

        See :func:`salver.features.releases.window_exchange.attend`.
        """
        return await self._ledger.write(
            lambda connection: handing_in.attend(connection, release, server, now)
        )

    async def witnesses(self, releases: Sequence[str]) -> dict[str, tuple[CountingServer, ...]]:
        """Return the counting servers; see :func:`salver.features.releases.window_exchange.witnesses`."""
        return await self._ledger.read(lambda connection: handing_in.witnesses(connection, releases))

    async def hand_in(
        self,
        server: str,
        release: str,
        told: ExchangeProgress,
        seen: Sequence[BucketObservations],
    ) -> DistinctUnits:
        """Store counts; see :func:`salver.features.releases.window_exchange.hand_in`."""
        return await self._ledger.write(
            lambda connection: handing_in.hand_in(connection, server, release, told, seen, self._clock)
        )

    async def leave(self, server: str) -> None:
        """Unregister a server; see :func:`salver.features.releases.window_exchange.leave`."""
        await self._ledger.write(lambda connection: handing_in.leave(connection, server))

    async def commit(self, step: Step, now: float) -> Release:
        """Write the changes of a step: all of them, or none.

        Returns:
            The release as stored now.

        Raises:
            Conflict: another server has taken a step; read again.
        """
        await self._ledger.write(lambda connection: commit(connection, step, now))
        before, after = step.before, step.after
        return msgspec.structs.replace(after, revision=before.revision + (before != after))

    async def looks(
        self, release: str, after: int = -1, most: int = 100_000, *, every: int = 1, last: int = 0
    ) -> tuple[Look, ...]:
        """Return buckets with their verdicts, in order.

        Args:
            after: Only those after this one.
            every, last: Every n-th of them, including ``last``.
        """
        joined = BUCKET.join(
            DECISION, (BUCKET.c.release == DECISION.c.release) & (BUCKET.c.seq == DECISION.c.seq)
        )
        query = (
            select(BUCKET.c.seq, BUCKET.c.body, DECISION.c.body)
            .select_from(joined)
            .where(BUCKET.c.release == release, BUCKET.c.seq > after, BUCKET.c.seq % every == last % every)
            .order_by(BUCKET.c.seq)
            .limit(most)
        )

        def read(connection: Connection) -> tuple[Look, ...]:
            return tuple(
                Look(seq, entry_of(bucket, decided)) for seq, bucket, decided in connection.execute(query)
            )

        return await self._ledger.read(read)

    async def carriers(self, release: Release) -> tuple[Carrier, ...]:
        """Return what carries the evidence; see :func:`salver.features.releases.carriers.carriers`."""
        return await self._ledger.read(lambda connection: carriers(connection, release))

    async def prune(self, now: float, most: int = 10_000) -> int:
        """Delete units of releases that ended long ago, but no counts.

        Args:
            most: Maximum rows of a table deleted at once, so that others do not wait long.

        Returns:
            Number of deleted rows.
        """
        over = select(RELEASE.c.id).where(RELEASE.c.ended < now - MOST_DAYS * _DAY_SECONDS)

        def write(connection: Connection) -> int:
            gone = 0
            # By primary keys, because neither database limits a DELETE by itself.
            for table in _OF_UNITS:
                key = tuple(table.primary_key)
                some = select(*key).where(table.c.release.in_(over)).limit(most)
                gone += connection.execute(delete(table).where(tuple_(*key).in_(some))).rowcount
            return gone

        return await self._ledger.write(write)

    async def known_units(self, release: str) -> tuple[DistinctUnits, list[tuple[str, int]]]:
        """Return known units, possibly repeated, and first events."""
        units = select(EXPOSURE.c.unit).where(EXPOSURE.c.release == release)
        events = select(FIRST_EVENT.c.metric, FIRST_EVENT.c.unit).where(FIRST_EVENT.c.release == release)

        def read(connection: Connection) -> tuple[DistinctUnits, list[tuple[str, int]]]:
            told = met(connection, release)
            rows = connection.execute(units.execution_options(yield_per=_AT_ONCE))
            kept = np.fromiter(rows.scalars(), np.int64)
            found = [(str(metric), int(unit)) for metric, unit in connection.execute(events)]
            if len(kept):
                both = np.concatenate((told.units, kept))
                told = DistinctUnits({**told.by_stage, NO_STAGE: both}, told.last)
            return told, found

        return await self._ledger.read(read)
