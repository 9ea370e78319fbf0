"""Rows of releases in the ledger, within a transaction of the caller's.

Converts releases to rows and back, and says what one step writes. It opens no ledger and decides nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from salver.features.ledger.schema import (
    BUCKET,
    DECISION,
    MODEL,
    RELEASE,
    WISH,
)
from salver.features.registry.aliases import check_free, check_guard, latest, meant
from salver.features.registry.audit import Change, record
from salver.features.registry.names import CHAMPION
from salver.features.registry.records import Action, Actor
from salver.features.registry.rows import in_force
from salver.features.releases import window_exchange as handing_in
from salver.features.releases.experiments.windows import CountingServer, WindowPart
from salver.features.releases.fleet import Fleet
from salver.features.releases.judge.evidence import Evidence, start
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.record import ChangeRequest, Progress, Release, read_progress
from salver.features.releases.judge.replay import Entry
from salver.features.releases.judge.rules import Facts
from salver.features.releases.judge.verdict import Verdict
from salver.words.errors import Conflict, InvalidInput
from salver.words.releases import ReleaseState

_encode: Final = msgspec.json.Encoder().encode


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


def propose(connection: Connection, release: Release, change: Change) -> None:
    """Store a new release as :meth:`ReleaseStore.propose`, within a transaction."""
    check(connection, release, change)
    created = latest(connection, release.model, release.created)
    connection.execute(insert(RELEASE).values({**_columns(release), "id": release.id, "created": created}))
    versions = release.stable, release.canary
    if release.alias:
        record(connection, change, "alias.proposed", release.model, release.alias, *versions)
    else:
        record(connection, change, "release.proposed", release.model, release.id, *versions)


def check(connection: Connection, release: Release, change: Change) -> None:
    """Check whether a release may be proposed. Raises Conflict, Forbidden."""
    if release.alias:
        check_guard(connection, change, release.model, release.alias)
    check_free(connection, release.model, release.alias)


def commit(connection: Connection, step: Step, now: float) -> None:
    """Write the changes of a step. Raises Conflict if another server was first."""
    before, after = step.before, step.after
    if before != after:
        # The revision is what two servers race for: the update of the second one finds no row.
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
        # Raising undoes the whole step, so that a wish is answered by one server only.
        if connection.execute(update(WISH).where(*mine).values(done=now, answer=answer)).rowcount != 1:
            raise Conflict(f"a change request for release '{id}' was handled by another server meanwhile")
    action = _ACTIONS[after.state] if before.position != after.position else None
    is_same_stage = after.state is ReleaseState.RUNNING and after.stage == before.stage
    if before.resumes_at is not None and is_same_stage:
        action = "release.resumed"
    # Evidence against a promoted release is told once, though its state stays the same.
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


def picture(connection: Connection) -> ReleaseSnapshot:
    """Return all pending work."""
    said = connection.execute(select(MODEL.c.name, MODEL.c.default_alias))
    defaults = {name: alias or CHAMPION for name, alias in said}
    releases = tuple(
        msgspec.structs.replace(r, is_default=not r.alias or r.alias == defaults.get(r.model))
        for r in map(release_of, connection.execute(in_force(RELEASE.c)).mappings())
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
        elsewhere = ""
        if is_asked:
            elsewhere = _elsewhere(connection, release)
        waiting[release.id] = PendingWork(its, parts, witnesses, elsewhere)
    return ReleaseSnapshot(releases, waiting)


def _elsewhere(connection: Connection, release: Release) -> str:
    """See :attr:`PendingWork.elsewhere`."""
    if release.state is not ReleaseState.PROMOTED or not release.alias:
        return ""
    number = meant(connection, release.model, release.alias)
    if str(number) == release.canary:
        return ""
    if number is None:
        return "nothing"
    return f"version {number}"


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


def release_of(row: Any) -> Release:
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


def entry_of(bucket: str, decided: str) -> Entry:
    """Return a bucket and the decision made from it, as stored."""
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
