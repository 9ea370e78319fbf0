"""Routes: which copy of a model answers requests for a version, a label, or neither.

Pure. A label is a name for a version, such as ``stable``. It moves when its new version is ready, and stays
where it was until then, so that callers by label never wait for a load.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from salver.kernel.lifecycle.policy import version_key
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId, State


class Labels(NamedTuple):
    """Labels of a model with their configured versions, and the default label."""

    versions: Mapping[str, str]
    default: str = ""


def labels_of(known: Iterable[Manifest]) -> dict[str, Labels]:
    """Return the labels of each model, taken from its newest version; models without labels are left out."""
    newest: dict[str, Manifest] = {}
    for manifest in known:
        other = newest.get(manifest.id.name)
        if other is None or version_key(other.id.version) < version_key(manifest.id.version):
            newest[manifest.id.name] = manifest
    return {
        name: Labels(manifest.config.labels, manifest.config.default_label)
        for name, manifest in newest.items()
        if manifest.config.labels
    }


def settle(wanted: Mapping[str, str], before: Mapping[str, str], ready: Container[str]) -> dict[str, str]:
    """Return the version that each label points to now.

    Args:
        wanted: Configured versions.
        before: Versions until now.
        ready: Versions that are ready.

    >>> settle({"stable": "2"}, {"stable": "1"}, {"1"})
    {'stable': '1'}
    >>> settle({"stable": "2"}, {"stable": "1"}, {"1", "2"})
    {'stable': '2'}
    """
    found = {}
    for label, version in wanted.items():
        old = before.get(label, version)
        found[label] = old if old in ready and version not in ready else version
    return found


class Routed(Protocol):
    """A copy of a version. A later copy has a larger key."""

    key: int
    id: ModelId
    state: State


CopyT = TypeVar("CopyT", bound=Routed)


class Routes(Generic[CopyT]):
    """Copies that answer, by model, version and label.

    Attributes:
        exact: Copies by model and version.
        default: Copies for requests without a version, by model.
        pins: Pinned versions, by model.
        labels: The version that each label points to, by model.
        once: Models that have been served before.
    """

    def __init__(self) -> None:
        self.exact: dict[tuple[str, str], CopyT] = {}
        self.pins: dict[str, str] = {}
        self.labels: dict[str, dict[str, str]] = {}
        self.once: set[str] = set()
        self.default: dict[str, CopyT] = {}
        self._default_labels: dict[str, str] = {}  # of requests without a version, by model

    def find(self, name: str, version: str) -> CopyT | None:
        """Return the copy that answers.

        Args:
            name: Model name, or ``name@label`` if there is no model of that name.
            version: Version or label; empty = the default.
        """
        copy = self.exact.get((name, version)) if version else self.default.get(name)
        if copy is None:
            return self.exact.get(self.resolve(name, version))
        return copy

    def resolve(self, name: str, version: str) -> tuple[str, str]:
        """Return model and version that are meant, with labels resolved."""
        if not version:
            name, version = self.of_label(name) or (name, "")
        return name, self.labels.get(name, {}).get(version, version)

    def of_label(self, name: str) -> tuple[str, str] | None:
        """Return model and label of ``model@label``, or None if there is no such label."""
        # From the right: names of models may contain the sign.
        model, _, label = name.rpartition("@")
        if label in self.labels.get(model, ()):
            return (model, label)
        return None

    def meant(self, ids: Iterable[ModelId], name: str, version: str) -> ModelId | None:
        """Return which of these versions a request means: of several, the pinned one, else the newest."""
        mine = [id for id in ids if id.name == name and version in ("", id.version)]
        pinned = [id for id in mine if id.version == self.pins.get(name)]
        return max(pinned or mine, key=lambda id: version_key(id.version), default=None)

    def publish(self, name: str, copies: Iterable[CopyT], is_let_go: Callable[[ModelId], bool]) -> None:
        """Set the routes of a model.

        Args:
            copies: Those of all models.
            is_let_go: Tells whether a version is unwanted and gone, so that its pin has no effect.
        """
        mine = [copy for copy in copies if copy.id.name == name]
        for copy in mine:
            self.exact.pop((name, copy.id.version), None)
        self.default.pop(name, None)
        ready = [copy for copy in mine if copy.state is State.READY]
        pin = self.pins.get(name)
        if pin and is_let_go(ModelId(name, pin)):
            pin = None
        label = self.labels.get(name, {}).get(self._default_labels.get(name, ""))
        # In ascending order, so that the last one to be set is the newest; of two copies, the later.
        for copy in sorted(ready, key=lambda c: (version_key(c.id.version), c.key)):
            version = copy.id.version
            self.exact[name, version] = copy
            if (pin or label or version) == version:
                self.default[name] = copy
            self.once.add(name)

    def relabel(self, known: Iterable[Manifest]) -> tuple[set[str], set[ModelId]]:
        """Move labels to their wanted versions if these are ready.

        Returns:
            Models with a default label, which are to be published again, and versions that labels still hold
            although others are wanted.
        """
        # Made anew each time: labels that are in no configuration any more are gone.
        before, self.labels, leaving = self.labels, {}, set()
        defaults, self._default_labels = self._default_labels, {}
        for name, wanted in labels_of(known).items():
            ready = {version for model, version in self.exact if model == name}
            self.labels[name] = found = settle(wanted.versions, before.get(name, {}), ready)
            leaving |= {ModelId(name, v) for label, v in found.items() if v != wanted.versions[label]}
            if wanted.default:
                self._default_labels[name] = wanted.default
        return defaults.keys() | self._default_labels.keys(), leaving
