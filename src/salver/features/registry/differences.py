"""Differences between two versions.

Pure. It reads no file: each is represented by its digest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from salver.features.registry.records import Difference, Parent, Version


def differences(before: Version, after: Version) -> tuple[Difference, ...]:
    """Return what differs in the second version; empty = the same model with the same metadata."""
    return tuple(
        difference
        for part in (
            _pairs("description", _described(before), _described(after)),
            _pairs("signature", _tensors(before), _tensors(after)),
            _pairs("resources", before.description.resources, after.description.resources),
            _pairs("metrics", before.metrics, after.metrics),
            _pairs("tags", before.tags, after.tags),
            _pairs("files", _files(before), _files(after)),
            _pairs("parents", _parents(before.parents), _parents(after.parents)),
            _pairs("card", before.front_matter, after.front_matter),
            _pairs("card", {"text": before.card}, {"text": after.card}),
        )
        for difference in part
    )


def _pairs(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old != new:
            yield Difference(part, key, _shown(old), _shown(new))


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _described(version: Version) -> dict[str, str]:
    found = version.description
    return {"digest": version.digest, "framework": found.framework, "format": found.format}


def _tensors(version: Version) -> dict[str, str]:
    signature = version.description.signature
    return {
        f"{side}.{tensor['name']}": f"{tensor['datatype']}{list(tensor['shape'])}"
        for side in ("inputs", "outputs")
        for tensor in signature.get(side, ())
    }


def _files(version: Version) -> dict[str, str]:
    return {file.path: f"{file.size} bytes, sha256:{file.sha256[:12]}" for file in version.files}


def _parents(parents: tuple[Parent, ...]) -> dict[str, str]:
    return {f"{parent.kind} {parent.reference}": "parent" for parent in parents}
