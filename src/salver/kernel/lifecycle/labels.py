"""Which version does a label mean?

Pure. A label is its owner's name for a version, as ``stable`` or ``canary``. It moves when the version that
it is to mean can answer, and stays where it was until then: callers by label never wait for a load.
"""

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from salver.kernel.lifecycle.policy import version_key
from salver.words.artifacts import Manifest


class Labels(NamedTuple):
    """A model's labels, each with the version that it is to mean, and which of them is the default."""

    versions: Mapping[str, str]
    default: str = ""


def labels_of(known: Iterable[Manifest]) -> dict[str, Labels]:
    """The labels that each model's newest version brings, by model; models without any are left out."""
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
    """The version that each label means now.

    Args:
        wanted: As the owner says.
        before: What each meant so far.
        ready: Versions that can answer.

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
