"""Store of releases in the ledger.

Converts releases to rows and back. Everything in one step is one transaction: the bucket, the evidence after
it, the decision, the new weight, the alias that moves. After a crash the last step is complete, and nothing
is counted twice; if several servers take the same step, one succeeds. It decides nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, insert, or_, select, tuple_, update

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import (
    BUCKET,
    CROWD,
    DECISION,
    EXPOSURE,
    FIRST_EVENT,
    MODEL,
    PREDICTION,
    RELEASE,
    WISH,
)
from salver.features.registry.aliases import check_free, check_guard, latest, meant
from salver.features.registry.audit import Change, record
from salver.features.registry.names import CHAMPION
from salver.features.registry.records import Action, Actor
from salver.features.registry.rows import in_force
from salver.features.releases import window_exchange as handing_in
from salver.features.releases.distinct_units import DistinctUnits, met
from salver.features.releases.experiments.windows import CountingServer, WindowPart
from salver.features.releases.fleet import Fleet
from salver.features.releases.judge.evidence import Evidence, start
from salver.features.releases.judge.policy import MOST_DAYS, Policy
from salver.features.releases.judge.record import ChangeRequest, Progress, Release, What, read_progress
from salver.features.releases.judge.replay import Entry
from salver.features.releases.judge.rules import Facts
from salver.features.releases.judge.verdict import Verdict
from salver.features.releases.window_exchange import ExchangeProgress
from salver.words.errors import Conflict, InvalidInput, NotFound
from salver.words.releases import BucketObservations, ReleaseState, first_in, hour_of

_encode: Final = msgspec.json.Encoder().encode
_AT_ONCE: Final = 10_000  # rows read at once
_MOST_LISTED: Final = 1000
_DAY_SECONDS: Final = 86_400.0
_IS_HOURLY: Final = FIRST_EVENT.c.metric.contains(first_in("", "in_hour", 0)[:-1], autoescape=True)
#: Names of transitions in the audit log, by target state.
_ACTIONS: Final[Mapping[ReleaseState, Action]] = {
    ReleaseState.PROPOSED: "release.proposed",
    ReleaseState.RUNNING: "release.running",
    ReleaseState.HELD: "release.held",
    ReleaseState.PAUSED: "release.paused",
    ReleaseState.PROMOTED: "release.promoted",
    ReleaseState.ROLLED_BACK: "release.rolled_back",
}


class Look(msgspec.Struct, frozen=True):
    """The judge's inputs and verdict, with sequence number ``seq`` from 0."""

    seq: int
    entry: Entry


class _DecisionRow(msgspec.Struct, frozen=True):
    """An entry without its bucket, which has a row of its own."""

    state: ReleaseState
    verdict: Verdict
    facts: Facts


_read_evidence: Final = msgspec.json.Decoder(Evidence).decode
_read_decided: Final = msgspec.json.Decoder(_DecisionRow).decode


class Step(msgspec.Struct, frozen=True):
    """Changes of a release in one tick.

    Attributes:
        before, after: The release; may be equal.
        looks: Buckets with their verdicts, in order.
        parts: Parts of these buckets.
        answers: Answers to change requests, by id; empty = done.
        aliases: Moves the alias in the same transaction; None = unchanged.
        by: Who requested the change; empty = it follows from counts or loaded versions.
    """

    before: Release
    after: Release
    looks: tuple[Look, ...] = ()
    parts: tuple[WindowPart, ...] = ()
    answers: tuple[tuple[int, str], ...] = ()
    aliases: Fleet | None = None
    by: str = ""

    @property
    def is_nothing(self) -> bool:
        """Return whether there is nothing to write."""
        return self.before == self.after and not (self.parts or self.answers)


class PendingWork(msgspec.Struct, frozen=True):
    """Pending work of one release.

    Attributes:
        wishes: Unprocessed change requests, in order.
        parts: Counts of servers that have not been judged.
        witnesses: Servers that count it.
        elsewhere: Version of its alias, if that was moved after the promotion; empty = not moved.
    """

    wishes: tuple[ChangeRequest, ...] = ()
    parts: Sequence[WindowPart] = ()
    witnesses: Sequence[CountingServer] = ()
    elsewhere: str = ""


class ReleaseSnapshot(msgspec.Struct, frozen=True):
    """Consistent snapshot of all releases.

    Attributes:
        releases: Active releases, and the last of each model and alias, oldest first.
        waiting: Pending work by release; for others only change requests.
    """

    releases: tuple[Release, ...]
    waiting: Mapping[str, PendingWork]


class ReleaseStore:
    """Releases in a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

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
        await self._ledger.read(lambda connection: _check(connection, release, change))

    async def picture(self) -> ReleaseSnapshot:
        """Return all pending work from one state of the ledger."""
        return await self._ledger.read(_picture)

    async def get(self, release: str) -> Release:
        """Return a release; raises NotFound."""

        def read(connection: Connection) -> Release:
            row = connection.execute(select(RELEASE).where(RELEASE.c.id == release)).mappings().first()
            if row is None:
                raise NotFound(f"there is no release '{release}'", fix="`salver rollout status` lists them.")
            return _release(row)

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
            lambda connection: tuple(_release(row) for row in connection.execute(query).mappings())
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
        self, server: str, release: str, told: ExchangeProgress, seen: Sequence[BucketObservations]
    ) -> DistinctUnits:
        """Store counts; see :func:`salver.features.releases.window_exchange.hand_in`."""
        return await self._ledger.write(
            lambda connection: handing_in.hand_in(connection, server, release, told, seen)
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
        await self._ledger.write(lambda connection: _commit(connection, step, now))
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
                Look(seq, _entry(bucket, decided)) for seq, bucket, decided in connection.execute(query)
            )

        return await self._ledger.read(read)

    async def prune(self, now: float, most: int = 10_000) -> int:
        """Delete units of releases that ended long ago, and events of past hours, but no counts.

        Args:
            most: Maximum rows of a table deleted at once, so that others do not wait long.

        Returns:
            Number of deleted rows.
        """
        over = select(RELEASE.c.id).where(RELEASE.c.ended < now - MOST_DAYS * _DAY_SECONDS)
        old: list[tuple[Table, ColumnElement[bool]]] = [
            *((table, table.c.release.in_(over)) for table in (PREDICTION, FIRST_EVENT, EXPOSURE, CROWD)),
            (FIRST_EVENT, _IS_HOURLY & (FIRST_EVENT.c.time < now - _DAY_SECONDS)),
        ]

        def write(connection: Connection) -> int:
            gone = 0
            for table, is_old in old:
                key = tuple(table.primary_key)
                some = select(*key).where(is_old).limit(most)
                gone += connection.execute(delete(table).where(tuple_(*key).in_(some))).rowcount
            return gone

        return await self._ledger.write(write)

    async def known_units(self, release: str, now: float) -> tuple[DistinctUnits, list[tuple[str, int]]]:
        """Return known units, possibly repeated, and first events except those of past hours."""
        units = select(EXPOSURE.c.unit).where(EXPOSURE.c.release == release)
        counts = ~_IS_HOURLY | (FIRST_EVENT.c.time >= 3600 * hour_of(now))
        events = select(FIRST_EVENT.c.metric, FIRST_EVENT.c.unit).where(
            FIRST_EVENT.c.release == release, counts
        )

        def read(connection: Connection) -> tuple[DistinctUnits, list[tuple[str, int]]]:
            told, last = met(connection, release)
            rows = connection.execute(units.execution_options(yield_per=_AT_ONCE))
            kept = np.fromiter(rows.scalars(), np.int64)
            found = [(str(metric), int(unit)) for metric, unit in connection.execute(events)]
            return DistinctUnits(np.concatenate((told, kept)) if len(kept) else told, last), found

        return await self._ledger.read(read)


def propose(connection: Connection, release: Release, change: Change) -> None:
    """Store a new release as :meth:`ReleaseStore.propose`, within a transaction."""
    _check(connection, release, change)
    created = latest(connection, release.model, release.created)
    connection.execute(insert(RELEASE).values({**_columns(release), "id": release.id, "created": created}))
    versions = release.stable, release.canary
    if release.alias:
        record(connection, change, "alias.proposed", release.model, release.alias, *versions)
    else:
        record(connection, change, "release.proposed", release.model, release.id, *versions)


def _check(connection: Connection, release: Release, change: Change) -> None:
    if release.alias:
        check_guard(connection, change, release.model, release.alias)
    check_free(connection, release.model, release.alias)


def _commit(connection: Connection, step: Step, now: float) -> None:
    before, after = step.before, step.after
    if before != after:
        found = connection.execute(
            update(RELEASE)
            .where(RELEASE.c.id == before.id, RELEASE.c.revision == before.revision)
            .values({**_columns(after), "revision": before.revision + 1})
        )
        if found.rowcount != 1:
            raise Conflict(f"release '{before.id}' was changed by another server meanwhile")
    id = after.id
    if step.looks:
        connection.execute(insert(BUCKET), [_bucket(id, look) for look in step.looks])
        connection.execute(insert(DECISION), [_decision(id, look, now) for look in step.looks])
    handing_in.judged(connection, id, step.parts)
    if not after.is_judged:
        handing_in.forget(connection, id)
    for wish, answer in step.answers:
        mine = (WISH.c.id == wish, WISH.c.done.is_(None))
        if connection.execute(update(WISH).where(*mine).values(done=now, answer=answer)).rowcount != 1:
            raise Conflict(f"a wish for release '{id}' was seen to by another server meanwhile")
    action = _ACTIONS[after.state] if before.position != after.position else None
    if action is None and after.progress.is_told and not before.progress.is_told:
        action = "release.harmful"
    if action is not None:
        change = Change(Actor(step.by or f"release {id}"), now, after.reason)
        record(connection, change, action, after.model, id, _stand(before), _stand(after))
    if step.aliases is not None:
        step.aliases.move(connection, after, now)


def _stand(release: Release) -> str:
    """Return the state of a release for the audit log."""
    return f"{release.state.value} {100 * release.weight:.4g} %"


def _picture(connection: Connection) -> ReleaseSnapshot:
    said = connection.execute(select(MODEL.c.name, MODEL.c.default_alias))
    defaults = {name: alias or CHAMPION for name, alias in said}
    releases = tuple(
        msgspec.structs.replace(r, is_default=not r.alias or r.alias == defaults.get(r.model))
        for r in map(_release, connection.execute(in_force(RELEASE.c)).mappings())
    )
    wishes: dict[str, list[ChangeRequest]] = {}
    for row in connection.execute(select(WISH).where(WISH.c.done.is_(None)).order_by(WISH.c.id)):
        wish = ChangeRequest(row.id, row.release, row.what, row.by, row.why, row.time)
        wishes.setdefault(wish.release, []).append(wish)
    told = handing_in.waiting(connection) if any(one.is_judged for one in releases) else {}
    waiting = {name: PendingWork(tuple(some)) for name, some in wishes.items()}
    for release in releases:
        parts, witnesses = told.get(release.id, ((), ()))
        its = tuple(wishes.get(release.id, ()))
        is_asked = bool(its) or release.progress.watched_until is not None
        elsewhere = _elsewhere(connection, release) if is_asked else ""
        waiting[release.id] = PendingWork(its, parts, witnesses, elsewhere)
    return ReleaseSnapshot(releases, waiting)


def _elsewhere(connection: Connection, release: Release) -> str:
    """See :attr:`PendingWork.elsewhere`."""
    if release.state is not ReleaseState.PROMOTED or not release.alias:
        return ""
    number = meant(connection, release.model, release.alias)
    if str(number) == release.canary:
        return ""
    return "nothing" if number is None else f"version {number}"


def _columns(release: Release) -> dict[str, Any]:
    """Return all columns except the id."""
    fields = ("model", "stable", "canary", "alias", "salt", "stage", "weight", "reason", "created", "by")
    plain = {name: getattr(release, name) for name in (*fields, "why", "changed", "ended")}
    plain["state"] = release.state.value
    if release.fault:
        return plain
    return {
        **plain,
        "policy": release.policy.to_json().decode(),
        "evidence": _encode(release.evidence).decode(),
        "progress": _encode(release.progress).decode(),
    }


def _release(row: Any) -> Release:
    """Read a release. One that cannot be read gets a fault, so that others can still be read."""
    decoded: dict[str, Any] = {"state": ReleaseState(row["state"])}
    try:
        policy = Policy.from_json(row["policy"])
        has_begun = row["evidence"] != "{}"  # a proposal made by the registry
        decoded |= {
            "policy": policy,
            "evidence": _read_evidence(row["evidence"]) if has_begun else start(policy),
            "progress": read_progress(row["progress"]),
        }
    except (InvalidInput, msgspec.MsgspecError) as error:
        nothing = {"policy": Policy(), "evidence": start(Policy()), "progress": Progress()}
        decoded |= {**nothing, "fault": str(error)}
    plain = {name: row[name] for name in Release.__struct_fields__ if name in row}
    return Release(**{**plain, **decoded})


def _entry(bucket: str, decided: str) -> Entry:
    found = _read_decided(decided)
    return Entry(handing_in.read_bucket(bucket), found.state, found.verdict, found.facts)


def _bucket(release: str, look: Look) -> dict[str, Any]:
    return {"release": release, "seq": look.seq, "body": _encode(look.entry.bucket).decode()}


def _decision(release: str, look: Look, now: float) -> dict[str, Any]:
    entry = look.entry
    inputs = _encode((entry.bucket, entry.state, entry.facts))
    return {
        "release": release,
        "seq": look.seq,
        "inputs": hashlib.sha256(inputs).hexdigest(),
        "body": _encode(_DecisionRow(entry.state, entry.verdict, entry.facts)).decode(),
        "actor": "judge",
        "time": now,
    }
