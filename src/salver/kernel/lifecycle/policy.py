"""Decisions about loading: which versions are wanted, and the next steps towards them.

Pure: maps the whole wanted list and a snapshot of the present copies to the steps that are due now.
Level-triggered and idempotent: whether or not the steps are carried out, the next call computes what remains.
It knows no clock, task or file.

The rules: a version is loaded beside the running one, which is unloaded only when its successor is ready. A
version that failed stays down until its files change or a load is requested; what ran before it keeps
running.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from salver.words.artifacts import Manifest
from salver.words.messages import ModelId, State

#: Allowed next states of each state.
MOVES: Final[Mapping[State, frozenset[State]]] = {
    State.NEW: frozenset({State.LOADING, State.GONE}),
    State.LOADING: frozenset({State.WARMING, State.UNLOADING, State.FAILED}),
    State.WARMING: frozenset({State.READY, State.UNLOADING, State.FAILED}),
    State.READY: frozenset({State.DRAINING}),
    State.DRAINING: frozenset({State.UNLOADING}),
    State.UNLOADING: frozenset({State.GONE}),
    State.FAILED: frozenset({State.GONE}),
    State.GONE: frozenset(),
}

#: States on the way to READY.
RISING: Final = frozenset({State.NEW, State.LOADING, State.WARMING})


def advance(before: State, after: State) -> State:
    """Return the state after a move.

    Raises:
        ValueError: the table has no such move, which is a bug in the caller.

    >>> advance(State.WARMING, State.READY).value
    'READY'
    """
    if after not in MOVES[before]:
        raise ValueError(f"no move from {before} to {after}")
    return after


class Present(msgspec.Struct, frozen=True):
    """One copy of a version as it is now. During a reload a version has two copies.

    Attributes:
        key: Identifies the copy; a later copy has a larger key.
        retry_at: When a failed copy may be retried; None = not automatically.
        reason: Why it failed.
        body: ``body`` of its manifest; empty = it cannot be changed in place.
        is_adjusting: Its number of instances is being changed.
    """

    key: int
    id: ModelId
    fingerprint: str
    state: State
    retry_at: float | None = None
    reason: str = ""
    body: str = ""
    is_adjusting: bool = False


class Load(msgspec.Struct, frozen=True):
    """Step: load this version."""

    manifest: Manifest


class Adjust(msgspec.Struct, frozen=True):
    """Step: change the number of instances of a ready copy, and nothing else."""

    key: int
    manifest: Manifest


class Drain(msgspec.Struct, frozen=True):
    """Step: give the copy no new requests, and close it when its last lease is released."""

    key: int


class Forget(msgspec.Struct, frozen=True):
    """Step: drop a copy that holds no resources: one waiting to load, or one that failed."""

    key: int


Step = Load | Adjust | Drain | Forget


def version_key(version: str) -> tuple[int, str]:
    """Return a sort key for versions: by number, then by spelling; non-numeric ones first.

    >>> sorted(["10", "9", "beta", "010"], key=version_key)
    ['beta', '9', '010', '10']
    """
    return (int(version) if version.isdecimal() else -1, version)


def choose(manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """Return the versions that each model's version policy wants, newest first.

    A version with a problem is never chosen and does not count towards the latest n.
    """
    by_name: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        if not manifest.problem:
            by_name.setdefault(manifest.id.name, []).append(manifest)
    chosen: list[Manifest] = []
    for versions in by_name.values():
        # The newest version's policy counts for all, since each version may bring a configuration.
        versions.sort(key=lambda m: version_key(m.id.version), reverse=True)
        policy = versions[0].config.versions
        if policy.specific:
            chosen += [m for m in versions if m.id.version in policy.specific]
        else:
            chosen += versions if policy.all else versions[: policy.latest]
    return tuple(chosen)


def missed(manifests: Sequence[Manifest]) -> tuple[Manifest, ...]:
    """Return the versions of one model that would be wanted if they had no problem."""
    # The policy of a version without a problem decides; a faulty one's configuration may be unreadable.
    policies = [m.config for m in choose(manifests)] or [m.config for m in manifests]
    whole = choose(replace(m, problem="", config=policies[0]) for m in manifests) if policies else ()
    wanted = {m.id for m in whole}
    return tuple(m for m in manifests if m.problem and m.id in wanted)


def before_loading(manifest: Manifest, waits: str, *, is_absent: bool, is_wanted: bool) -> tuple[State, str]:
    """Return state and reason of a version that has no copy.

    Args:
        waits: What it waits for before it is loaded; empty = nothing.
        is_absent: It is not to be in memory now.
        is_wanted: It is to be loaded.
    """
    if manifest.problem:
        return State.FAILED, manifest.problem
    if is_absent:
        return State.GONE, "not in memory; the next request loads it"
    if not is_wanted and not waits:
        return State.GONE, "not among the versions that the model's version policy wants"
    return State.NEW, waits


def plan(
    known: Sequence[Manifest],
    present: Sequence[Present],
    now: float,
    waiting: Container[ModelId] = (),
    broken: Container[ModelId] = (),
    labelled: Container[ModelId] = (),
    absent: Container[ModelId] = (),
) -> tuple[Step, ...]:
    """Return the steps that are due now.

    Args:
        known: All versions in the repository of the models to serve.
        present: Every copy that is not gone.
        waiting: Versions that must not be loaded yet.
        broken: Ready and wanted versions that can no longer answer.
        labelled: Versions that a label points to until its new version is ready.
        absent: Wanted versions that are not to be in memory now.
    """
    chosen = [manifest for manifest in choose(known) if manifest.id not in absent]
    targets = {m.id: m.fingerprint for m in chosen}
    names = {m.id.name for m in known}
    ready = {p.id for p in present if p.state is State.READY and targets.get(p.id) == p.fingerprint}
    # Only copies with the wanted files count as ready: an old one is no reason to drop another old one.
    ready_names = {id.name for id in ready}

    steps: list[Step] = []
    for copy in present:
        current = targets.get(copy.id) == copy.fingerprint
        if copy.state is State.READY and not current:
            # A changed version needs its own new copy; a version that is no longer wanted needs any ready
            # one.
            replaced = copy.id in ready if copy.id in targets else copy.id.name in ready_names
            # A label keeps an unwanted version until the label's new version is ready.
            replaced = replaced and (copy.id in targets or copy.id not in labelled)
            is_useless = copy.id.name not in names or copy.id in broken or copy.id in absent
            if replaced or is_useless:
                steps.append(Drain(copy.key))
        elif copy.state in (State.NEW, State.FAILED) and not current:  # loading ones end by themselves
            steps.append(Forget(copy.key))
    copies: dict[tuple[ModelId, str], list[Present]] = {}
    for copy in present:
        copies.setdefault((copy.id, copy.fingerprint), []).append(copy)
    # All at once: how many load at the same time is up to the manager.
    due = [m for m in chosen if m.id not in waiting]
    for manifest in due:
        if _is_due(copies.get((manifest.id, manifest.fingerprint), ()), now):
            # If only the number of instances changed, adjust the running copy instead of loading another.
            twin = next((p for p in present if p.id == manifest.id and _is_alike(p, manifest)), None)
            if twin is None:
                steps.append(Load(manifest))
            elif not twin.is_adjusting:
                steps.append(Adjust(twin.key, manifest))
    return tuple(steps)


def _is_alike(copy: Present, manifest: Manifest) -> bool:
    """Return whether the copy is ready and differs from the manifest only in the number of instances."""
    return bool(copy.body) and copy.state is State.READY and copy.body == manifest.body


def _is_due(copies: Sequence[Present], now: float) -> bool:
    """Return whether a wanted version with these copies should be loaded."""
    for copy in copies:
        # Draining copies do not count: a version that is wanted again is loaded again.
        if copy.state is State.READY or copy.state in RISING:
            return False
        if copy.state is State.FAILED and (copy.retry_at is None or copy.retry_at > now):
            return False
    return True
