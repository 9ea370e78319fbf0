"""Version labels and the versions that they point to.

Pure. A label is a name for a version, such as ``stable``. It moves when its new version is ready, and stays
where it was until then, so that callers by label never wait for a load.
"""

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from salver.kernel.lifecycle.policy import version_key
from salver.words.artifacts import Manifest


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
