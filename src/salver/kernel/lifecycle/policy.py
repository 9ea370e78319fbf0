"""Which versions should be loaded, and what is the next step towards that?

Pure: from the whole wanted list and a snapshot of what is there to the steps that are due now.
Level-triggered and idempotent: carried out or not, the next call computes what is still to do.
It knows no clock, task or file.

The rules: a version is loaded beside the running one; the running one goes only when its
successor is ready; a version that failed stays down until its files change or somebody asks again,
and what ran before it keeps running.
"""

from collections.abc import Container, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from salver.kernel.lifecycle.states import RISING
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId, State


class Present(msgspec.Struct, frozen=True):
    """One copy of a version as it is now. Two copies of one version exist during a reload.

    Attributes:
        key: Names the copy; a later copy has a larger key.
        retry_at: When a failed copy may be tried again; None for not by itself.
        reason: Why it failed.
        body: Of its manifest; empty = it cannot be changed in place.
        is_adjusting: That is being done.
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
    """Bring this version up."""

    manifest: Manifest


class Adjust(msgspec.Struct, frozen=True):
    """Let a copy that is ready have as many instances as this says; nothing else about the version is new."""

    key: int
    manifest: Manifest


class Drain(msgspec.Struct, frozen=True):
    """Give the copy no new work, and close it when the last lease is back."""

    key: int


class Forget(msgspec.Struct, frozen=True):
    """Drop a copy that holds nothing: one that waits for its turn to load, or one that failed."""

    key: int


Step = Load | Adjust | Drain | Forget


def version_key(version: str) -> tuple[int, str]:
    """Orders versions: by number, then by spelling; what is no number comes first.

    >>> sorted(["10", "9", "beta", "010"], key=version_key)
    ['beta', '9', '010', '10']
    """
    return (int(version) if version.isdecimal() else -1, version)


def choose(manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The versions that each model's own version policy wants loaded, newest first.

    A version with a problem is never chosen, and does not count as one of the latest n.
    """
    by_name: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        if not manifest.problem:
            by_name.setdefault(manifest.id.name, []).append(manifest)
    chosen: list[Manifest] = []
    for versions in by_name.values():
        versions.sort(key=lambda m: version_key(m.id.version), reverse=True)
        policy = versions[0].config.versions
        if policy.specific:
            chosen += [m for m in versions if m.id.version in policy.specific]
        else:
            chosen += versions if policy.all else versions[: policy.latest]
    return tuple(chosen)


def missed(manifests: Sequence[Manifest]) -> tuple[Manifest, ...]:
    """Versions of one model that would be wanted, had they no problem."""
    policies = [m.config for m in choose(manifests)] or [m.config for m in manifests]
    whole = choose(replace(m, problem="", config=policies[0]) for m in manifests) if policies else ()
    wanted = {m.id for m in whole}
    return tuple(m for m in manifests if m.problem and m.id in wanted)


def plan(
    known: Sequence[Manifest],
    present: Sequence[Present],
    now: float,
    waiting: Container[ModelId] = (),
    broken: Container[ModelId] = (),
    labelled: Container[ModelId] = (),
) -> tuple[Step, ...]:
    """The steps that are due now.

    Args:
        known: Everything the repository holds of the models that should be served.
        present: Every copy that is not gone.
        waiting: Versions that are not to be loaded yet.
        broken: Versions that cannot answer any more, though they are ready and stay wanted.
        labelled: Versions that a label means until the one that it is to mean is ready.
    """
    chosen = choose(known)
    targets = {m.id: m.fingerprint for m in chosen}
    names = {m.id.name for m in known}
    ready = {p.id for p in present if p.state is State.READY and targets.get(p.id) == p.fingerprint}
    ready_names = {id.name for id in ready}

    steps: list[Step] = []
    for copy in present:
        current = targets.get(copy.id) == copy.fingerprint
        if copy.state is State.READY and not current:
            replaced = copy.id in ready if copy.id in targets else copy.id.name in ready_names
            replaced = replaced and (copy.id in targets or copy.id not in labelled)
            if replaced or copy.id.name not in names or copy.id in broken:
                steps.append(Drain(copy.key))
        elif copy.state in (State.NEW, State.FAILED) and not current:
            steps.append(Forget(copy.key))
    copies: dict[tuple[ModelId, str], list[Present]] = {}
    for copy in present:
        copies.setdefault((copy.id, copy.fingerprint), []).append(copy)
    due = [m for m in chosen if m.id not in waiting]
    for manifest in due:
        if _is_due(copies.get((manifest.id, manifest.fingerprint), ()), now):
            twin = next((p for p in present if p.id == manifest.id and _is_alike(p, manifest)), None)
            if twin is None:
                steps.append(Load(manifest))
            elif not twin.is_adjusting:
                steps.append(Adjust(twin.key, manifest))
    return tuple(steps)


def _is_alike(copy: Present, manifest: Manifest) -> bool:
    """It is ready, and no other than this but for its number of instances."""
    return bool(copy.body) and copy.state is State.READY and copy.body == manifest.body


def _is_due(copies: Sequence[Present], now: float) -> bool:
    """Whether a wanted version with these copies of it should be loaded."""
    for copy in copies:
        if copy.state is State.READY or copy.state in RISING:
            return False
        if copy.state is State.FAILED and (copy.retry_at is None or copy.retry_at > now):
            return False
    return True
