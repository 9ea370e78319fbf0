"""Binding of ensembles to loaded copies of their member models.

Pure: an ensemble is bound to copies that are ready, and its fingerprint names them. When one is replaced, the
ensemble counts as changed and is loaded beside the running one. While members are loading the ensemble waits;
without them it is broken and is unloaded. The texts are Triton's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from salver.kernel.lifecycle.policy import RISING, Present, choose, version_key
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId, State

_NONE: Final[Mapping[ModelId, str]] = {}


class BoundEnsembles(NamedTuple):
    """The wanted list, resolved against the copies that are present.

    Attributes:
        known: All versions; ensembles with their fingerprints or their problems.
        waiting: Ensembles that cannot be loaded yet, with the reason.
        broken: Ensembles with a missing member.
    """

    known: tuple[Manifest, ...]
    waiting: Mapping[ModelId, str] = _NONE
    broken: frozenset[ModelId] = frozenset()


class _EnsembleVerdict(NamedTuple):
    """Verdict on one ensemble; at most one field is set."""

    waits: str = ""
    problem: str = ""
    keys: tuple[int, ...] = ()


def bind(known: Sequence[Manifest], present: Sequence[Present]) -> BoundEnsembles:
    """Resolve which ensembles can be loaded now."""
    if not any(manifest.config.ensemble.steps for manifest in known):
        return BoundEnsembles(tuple(known))
    binder = _Binder(known, present)
    bound, waiting, broken = [], {}, set()
    for manifest in known:
        if not manifest.config.ensemble.steps or manifest.problem:
            bound.append(manifest)
            continue
        # Verdicts are recursive, since members may be ensembles; cycles are found before any recursion.
        verdict = binder.verdict(manifest)
        if verdict.problem:
            broken.add(manifest.id)
            bound.append(replace(manifest, problem=verdict.problem))
            continue
        if verdict.waits:
            waiting[manifest.id] = verdict.waits
        bound.append(replace(manifest, fingerprint=_fingerprint(manifest, verdict)))
    return BoundEnsembles(tuple(bound), waiting, frozenset(broken))


def with_members(known: Sequence[Manifest], names: frozenset[str]) -> frozenset[str]:
    """Return these models and, recursively, their members.

    Args:
        known: All known versions.
    """
    members: dict[str, set[str]] = {}
    for manifest in known:
        models = {name for name, _ in manifest.config.ensemble.models}
        members.setdefault(manifest.id.name, set()).update(models)
    found = set(names)
    while more := {name for each in found for name in members.get(each, ())} - found:
        found |= more
    return frozenset(found)


class _Binder:
    """State of one evaluation of all ensembles."""

    def __init__(self, known: Sequence[Manifest], present: Sequence[Present]) -> None:
        self._known = _by_name(known)
        # Members that the version policy does not want are not loaded, and none may wait for them.
        self._chosen = _by_name(choose(known))
        self._present = _by_name(present)
        self._members = {
            name: {model for manifest in manifests for model, _ in manifest.config.ensemble.models}
            for name, manifests in self._known.items()
            if any(manifest.config.ensemble.steps for manifest in manifests)
        }
        self._verdicts: dict[ModelId, _EnsembleVerdict] = {}

    def verdict(self, manifest: Manifest) -> _EnsembleVerdict:
        """Return the verdict on an ensemble."""
        if manifest.id not in self._verdicts:  # an ensemble may be a member of many
            self._verdicts[manifest.id] = self._judge(manifest)
        return self._verdicts[manifest.id]

    def _judge(self, manifest: Manifest) -> _EnsembleVerdict:
        name, models = manifest.id.name, manifest.config.ensemble.models
        if missing := [model for model, _ in models if model not in self._known]:
            text = f"ensemble {name} contains models that are not available or ambiguous: "
            return _EnsembleVerdict(problem=text + ", ".join(sorted(set(missing))))
        # Before anything recursive: a cycle would never end.
        if last := self._circle(name):
            text = f"circular dependency between ensembles: {name} -> ... -> {last} -> {name}"
            return _EnsembleVerdict(problem=text)
        keys, coming = [], []
        # A missing member decides at once; one that is loading only if no other is missing.
        for model, version in models:
            if (copy := self._answering(model, version)) is not None:
                keys.append(copy.key)
            elif self._comes(model, version):
                coming.append(model)
            else:
                problem = f"ensemble '{name}' depends on '{model}' {self._reason(model, version)}"
                return _EnsembleVerdict(problem=problem)
        waits = ""
        if coming:
            waits = f"waits for its models {', '.join(dict.fromkeys(coming))}"
        return _EnsembleVerdict(waits, keys=tuple(keys))

    def _circle(self, name: str) -> str:
        """Return the last ensemble on the way from this one to itself; empty = no cycle."""
        reached = sorted(self._members[name])
        seen = set(reached)
        for each in reached:  # the list grows while it is read
            members = self._members.get(each, set())
            if name in members:
                return each
            reached += sorted(members - seen)
            seen |= members
        if name in seen:
            return name
        return ""

    def _answering(self, name: str, version: str) -> Present | None:
        """Return the copy that answers a request for that version, or for the newest."""
        ready = [
            copy
            for copy in self._present.get(name, ())
            if copy.state is State.READY and version in ("", copy.id.version) and not self._is_broken(copy.id)
        ]
        return max(ready, key=lambda copy: (version_key(copy.id.version), copy.key), default=None)

    def _is_broken(self, id: ModelId) -> bool:
        """Return whether the copy is an ensemble that is about to be unloaded."""
        return any(
            self.verdict(manifest).problem != ""
            for manifest in self._known.get(id.name, ())
            if manifest.config.ensemble.steps and manifest.id == id
        )

    def _wanted(self, name: str, version: str) -> list[Manifest]:
        return [m for m in self._chosen.get(name, ()) if version in ("", m.id.version)]

    def _comes(self, name: str, version: str) -> bool:
        """Return whether the model is loading or about to load."""
        for manifest in self._wanted(name, version):
            fingerprint = manifest.fingerprint
            # Copies of an ensemble carry its bound fingerprint, which changes with its members.
            if manifest.config.ensemble.steps:
                verdict = self.verdict(manifest)
                if verdict.problem:
                    continue
                if verdict.waits:
                    return True
                fingerprint = _fingerprint(manifest, verdict)
            mine = self._present.get(name, ())
            copies = [c for c in mine if c.id == manifest.id and c.fingerprint == fingerprint]
            # No copy yet, a loading one, or a failed one that will be retried.
            if not copies or any(c.state in RISING or c.retry_at is not None for c in copies):
                return True
        return False

    def _reason(self, name: str, version: str) -> str:
        """Return why an existing model is of no use to an ensemble."""
        wanted = self._wanted(name, version)
        failed = "; ".join(
            f"version {copy.id.version} is at UNAVAILABLE state: {copy.reason}"
            for copy in self._present.get(name, ())
            if copy.state is State.FAILED and any(copy.id == m.id for m in wanted)
        )
        for manifest in self._known[name]:
            problem = manifest.problem
            if not problem and manifest.config.ensemble.steps:
                problem = self.verdict(manifest).problem
            if problem and version in ("", manifest.id.version):
                return f"which is not valid. Model '{name}' failed with error: {problem}"
        if failed:
            return f"which has no loaded version. Model '{name}' loading failed with error: {failed};"
        if version:
            return f"whose required version {version} is not loaded."
        return "which has no loaded version."


class _MemberVersion(Protocol):
    """Version and copy of a member."""

    @property
    def id(self) -> ModelId: ...


_VersionedT = TypeVar("_VersionedT", bound=_MemberVersion)


def _by_name(found: Iterable[_VersionedT]) -> dict[str, list[_VersionedT]]:
    named: dict[str, list[_VersionedT]] = {}
    for each in found:
        named.setdefault(each.id.name, []).append(each)
    return named


def _fingerprint(manifest: Manifest, verdict: _EnsembleVerdict) -> str:
    """Return the fingerprint of an ensemble of these copies."""
    # Copies and not versions: a member that is loaded again makes its ensembles load again.
    return f"{manifest.fingerprint}+{'?' if verdict.waits else ','.join(map(str, verdict.keys))}"
