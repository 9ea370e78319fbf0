"""Names of models and versions, and of files and folders that are neither. Pure."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from salver.words.artifacts import Manifest
from salver.words.messages import ModelId

_UNFINISHED: Final = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
_VERSION: Final = re.compile(r"[0-9]{1,18}")
_PLAIN: Final = re.compile(r"[1-9][0-9]{0,17}")
_OTHER: Final = re.compile(r"[^A-Za-z0-9._-]+")

#: Stems that do not name a model; its folder does.
GENERIC_STEMS: Final = frozenset({"model", "saved_model", "model_repository"})


def is_visible(name: str) -> bool:
    """Return False for hidden and unfinished files: ``.x``, ``x.tmp``, ``x.part``, ``x~``.

    >>> [is_visible(n) for n in ("model.onnx", ".git", "model.onnx.part")]
    [True, False, False]
    """
    return not name.startswith((".", "__pycache__")) and not name.endswith(_UNFINISHED)


def is_version(name: str) -> bool:
    """Return True for a version as Salver and Triton name them: digits, no leading zero."""
    return _PLAIN.fullmatch(name) is not None


def is_padded_version(name: str) -> bool:
    """Return True for any number, with or without leading zeros, as TensorFlow Serving's ``00000123``."""
    return _VERSION.fullmatch(name) is not None and name.isascii()


def model_name(stem: str) -> str:
    """Return a model name made of a file's stem.

    >>> model_name("résumé ranker (v2)")
    'r_sum_ranker_v2'
    """
    return _OTHER.sub("_", stem).strip("_.") or "model"


def namespaces(paths: Collection[str]) -> dict[str, str]:
    """Return a short name for each path: its last part, or as many as make it unique.

    >>> namespaces(["/a/models", "s3://b/models"])
    {'/a/models': 'a.models', 's3://b/models': 'b.models'}
    """
    parts = {path: [part for part in path.split("/") if part] for path in paths}
    for size in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {path: ".".join(found[-size:]) for path, found in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return dict(zip(paths, paths, strict=True))


def with_namespaces(
    everything: Sequence[tuple[str, Manifest]], spaces: Mapping[str, str]
) -> Iterator[Manifest]:
    """Yield the versions; models of several paths with one name are called ``NAMESPACE::NAME``.

    Args:
        spaces: Namespaces by path; empty = none.
    """
    places: dict[str, set[str]] = {}
    for path, manifest in everything:
        places.setdefault(manifest.id.name, set()).add(path)
    names: dict[str, dict[str, str]] = {}
    for name, found in places.items():
        if len(found) > 1 and spaces:
            for path in found:
                names.setdefault(path, {})[name] = f"{spaces[path]}::{name}"
    for path, manifest in everything:
        yield _renamed(manifest, names.get(path, {}))


def _renamed(manifest: Manifest, names: Mapping[str, str]) -> Manifest:
    """Rename a version, and the members if it is an ensemble."""
    replace, id, steps = msgspec.structs.replace, manifest.id, manifest.config.ensemble.steps
    if id.name in names:
        manifest = replace(manifest, id=ModelId(names[id.name], id.version))
    if any(step.model in names for step in steps):
        steps = tuple(replace(step, model=names.get(step.model, step.model)) for step in steps)
        ensemble = replace(manifest.config.ensemble, steps=steps)
        config = replace(manifest.config, ensemble=ensemble)
        manifest = replace(manifest, config=config, fingerprint=f"{manifest.fingerprint} of a namespace")
    return manifest
