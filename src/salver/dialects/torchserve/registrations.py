"""Changes that requests have made to the list of models that the repository gives.

Models that were registered or removed, numbers of workers, and default versions: applied to the list at each
tick. Nothing is scanned or loaded here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from salver.words.artifacts import Manifest
from salver.words.handlers import FORMAT, Workers
from salver.words.messages import ModelId


class Pins(Protocol):
    """Versions that answer requests which name none (the lifecycle's manager)."""

    def pin(self, name: str, version: str) -> None:
        """Send requests that name no version to this one."""
        ...

    def unpin(self, name: str) -> None:
        """Send them to the newest version that is ready."""
        ...

    def pinned(self, name: str) -> str:
        """Return the pinned version; empty = none."""
        ...


class Registrations:
    """Registered models and other changes, kept until the server ends."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._registered: dict[ModelId, Manifest] = {}
        self._workers: dict[ModelId, tuple[str, Workers]] = {}  # with the body of their manifest
        self._removed: dict[ModelId, str] = {}  # with the fingerprint at removal
        self._known: tuple[Manifest, ...] = ()
        self._found: dict[ModelId, str] = {}  # fingerprints in the repository

    def __repr__(self) -> str:
        return f"<Registrations of {len(self._registered)} models>"

    def put(self, manifest: Manifest) -> None:
        """Add a version, from the next list on."""
        self._registered[manifest.id] = manifest
        self._workers.pop(manifest.id, None)

    def take_out(self, id: ModelId) -> None:
        """Remove a version, from the next list on; one of the repository returns when its files change."""
        self._registered.pop(id, None)
        self._workers.pop(id, None)
        if id in self._found:
            self._removed[id] = self._found[id]

    def ask_again(self, name: str) -> None:
        """Restore the versions of a model that the repository has and that were removed."""
        self._removed = {id: mark for id, mark in self._removed.items() if id.name != name}

    def rescale(self, id: ModelId, workers: Workers) -> None:
        """Change the number of a version's workers, from the next list on."""
        for manifest in self._known:
            if manifest.id == id:
                self._workers[id] = (manifest.body, workers)

    def over(self, found: Sequence[Manifest]) -> tuple[Manifest, ...]:
        """Return the list with all changes, and pin the default versions accordingly."""
        names = {id.name for id in self._registered}
        known = {m.id: _clashing(m) if m.id.name in names and m.format != FORMAT else m for m in found}
        self._found = {m.id: m.fingerprint for m in found}
        # A removal holds until the files change; then the owner wants the version again.
        self._removed = {id: mark for id, mark in self._removed.items() if self._found.get(id) == mark}
        known = {id: m for id, m in known.items() if id not in self._removed}
        known |= self._registered
        # Numbers of workers hold for the same content only.
        for id, (body, workers) in list(self._workers.items()):
            if id in known and known[id].body == body:
                known[id] = _with_workers(known[id], workers)
            else:
                del self._workers[id]
        self._known = tuple(known[id] for id in sorted(known))
        self._settle_pins()
        return self._known

    def handlers(self) -> tuple[Manifest, ...]:
        """Return all handlers, sorted by name."""
        return tuple(m for m in self._known if m.format == FORMAT)

    def versions(self, name: str) -> dict[str, Manifest]:
        """Return the versions of a handler."""
        return {m.id.version: m for m in self.handlers() if m.id.name == name}

    def others(self, name: str) -> frozenset[str]:
        """Return the versions of a model of this name that is no handler."""
        return frozenset(m.id.version for m in self._known if m.id.name == name and m.format != FORMAT)

    def default(self, name: str) -> str:
        """Return the default version: the pinned one, or the one of the default label."""
        if pinned := self._pins.pinned(name):
            return pinned
        meant = (m.config.labels.get(m.config.default_label, "") for m in self._known if m.id.name == name)
        return next(filter(None, meant), "")

    def set_default(self, name: str, version: str) -> None:
        """Send requests that name no version to this one, as long as it exists."""
        self._pins.pin(name, version)

    def _settle_pins(self) -> None:
        """Keep a handler's pin while its version exists, then pin the first of the others.

        Where a label names the default version, as the registry's aliases do, none is pinned.
        """
        labelled = {m.id.name for m in self._known if m.config.default_label}
        for name, versions in _by_name(self._known).items():
            pinned = self._pins.pinned(name)
            if pinned in versions or (name in labelled and not pinned):
                continue
            if handlers := [version for version, kind in versions.items() if kind == FORMAT]:
                self._pins.pin(name, min(handlers, key=order_of))
            elif pinned:
                self._pins.unpin(name)


def order_of(version: str) -> tuple[tuple[int, str], ...]:
    """Return a key that orders versions such as ``1.10``: part by part, by number where it is one.

    >>> sorted(["10.0", "9.0", "9", "beta"], key=order_of)
    ['beta', '9', '9.0', '10.0']
    """
    return tuple((int(part) if part.isdecimal() else -1, part) for part in version.split("."))


def _by_name(manifests: Iterable[Manifest]) -> Mapping[str, dict[str, str]]:
    """Return formats by version, by model."""
    found: dict[str, dict[str, str]] = {}
    for manifest in manifests:
        found.setdefault(manifest.id.name, {})[manifest.id.version] = manifest.format
    return found


def _with_workers(manifest: Manifest, workers: Workers) -> Manifest:
    """Return the manifest with other workers, and a fingerprint that says so."""
    config = msgspec.structs.replace(manifest.config, workers=workers)
    fingerprint = f"{manifest.fingerprint} with {workers.least} to {workers.most} workers"
    return msgspec.structs.replace(manifest, config=config, fingerprint=fingerprint)


def _clashing(manifest: Manifest) -> Manifest:
    problem = f"a model registered by request is called {manifest.id.name!r} as well; rename one of them"
    return msgspec.structs.replace(manifest, problem=problem)
