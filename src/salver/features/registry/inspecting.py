"""Inspection of a model that is pushed to a registry.

The repository recognises it, a trial load returns its signature, and the profiles its performance on this
machine. The files of a version are the artefact and what lies beside it: configuration, labels, warm-up data.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.backends.protocol import Backend
from salver.features.registry.records import Description, InspectedModel
from salver.features.tuning.profile import Profile
from salver.features.tuning.profiles import ProfileStore, machine
from salver.kernel.repository import Formats, Repository
from salver.kernel.repository.advice import unrecognised_folder
from salver.kernel.repository.names import is_padded_version, is_visible
from salver.machine import usable_cores
from salver.words.artifacts import Manifest, Objective
from salver.words.errors import InvalidInput, LoadFailed, MissingExtra
from salver.words.messages import PIPELINE, Signature, TensorSpec

_MOST_FILES: Final = 20_000

#: Loads a version in another process and unloads it; raises LoadFailed. Blocking.
Try = Callable[[Manifest], Signature]


class Inspector:
    """Inspector of models.

    Args:
        profiles: Store of measurements.
        tries: None = models are not loaded, and their signatures are unknown.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        formats: Formats,
        profiles: ProfileStore,
        tries: Try | None,
    ) -> None:
        self._backends = backends
        self._formats = formats
        self._profiles = profiles
        self._tries = tries

    def __repr__(self) -> str:
        return f"<Inspector with {len(self._backends)} backends>"

    async def __call__(self, path: Path) -> InspectedModel:
        """Inspect a file, or a folder of one model; of several versions the newest is used.

        Raises:
            InvalidInput: there is no model, or several.
            LoadFailed: the model is broken, or cannot be loaded as it is configured.
        """
        return await asyncio.to_thread(self._found, path)

    def _found(self, path: Path) -> InspectedModel:
        manifest = self._newest(path)
        files = _files(path, manifest)
        signature, notices = self._signature(manifest)
        if signature is not None and signature.platform == PIPELINE and not signature.digest:
            notices = (*notices, f"it has no digest that a server could check: salver pipelines lock {path}")
        described = Description(
            manifest.backend,
            manifest.format,
            _written(signature) if signature else {},
            {"bytes": sum(source.stat().st_size for source in files.values())},
            self._performance(manifest),
            (*manifest.notices, *notices),
        )
        return InspectedModel(files, described)

    def _newest(self, path: Path) -> Manifest:
        found = Repository((path,), self._formats).scan(0.0)
        names = sorted({manifest.id.name for manifest in found})
        if not names:
            raise InvalidInput(unrecognised_folder(path, [child.name for child in path.iterdir()]))
        if len(names) > 1:
            raise InvalidInput(
                f"{path} holds several models ({', '.join(names[:5])})", fix="Push one: PATH/NAME"
            )
        newest = max(found, key=lambda manifest: int(manifest.id.version))
        if newest.problem:
            raise LoadFailed(newest.problem)
        return newest

    def _signature(self, manifest: Manifest) -> tuple[Signature | None, tuple[str, ...]]:
        if manifest.config.ensemble.steps:
            return None, ("an ensemble: its tensors are known when it is served with its models",)
        if manifest.config.environment.path:
            return None, ("it has a Python environment of its own: its tensors are known when it is served",)
        if self._tries is None:
            return None, ("it was not loaded, so that its tensors are not known",)
        try:
            return self._tries(manifest), ()
        except MissingExtra as error:
            return None, (f"it was not loaded, so that its tensors are not known: {error}",)

    def _performance(self, manifest: Manifest) -> Mapping[str, Any]:
        """Return its performance on this machine, as measured by ``salver tune`` or a server."""
        backend = self._backends.get(manifest.backend)
        if backend is None:
            return {}
        here = machine(backend, usable_cores())
        for objective in (manifest.config.objective, Objective(throughput=True)):
            config = msgspec.structs.replace(manifest.config, objective=objective)
            key = self._profiles.key(msgspec.structs.replace(manifest, config=config))
            if (profile := self._profiles.read(key, here)) is not None and profile.measured:
                return _measured(profile)
        return {}


def _files(path: Path, manifest: Manifest) -> Mapping[str, Path]:
    """Return the files by path; of a folder of versions, the shared files and the version's own."""
    if path.is_file():
        return {path.name: path}
    found = {}
    versions = [child for child in path.iterdir() if child.is_dir() and is_padded_version(child.name)]
    newest = [child for child in versions if child.name == manifest.id.version]
    for base in (path, *newest):
        left_out = versions if base is path else ()
        for folder, folders, files in os.walk(base):
            here = Path(folder)
            folders[:] = sorted(f for f in folders if is_visible(f) and here / f not in left_out)
            if linked := [f for f in folders if (here / f).is_symlink()]:
                raise InvalidInput(f"{here / linked[0]} is a link to a folder", fix="Push the folder itself.")
            for name in sorted(filter(is_visible, files)):
                found[(here / name).relative_to(base).as_posix()] = here / name
            if len(found) > _MOST_FILES:
                raise InvalidInput(f"{path} holds more than {_MOST_FILES} files", fix="Push the model alone.")
    return found


def _written(signature: Signature) -> Mapping[str, Any]:
    written: dict[str, Any] = {
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
        "batched": signature.batched,
    }
    if signature.digest:
        written["digest"] = signature.digest
    return written


def _tensor(spec: TensorSpec) -> Mapping[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}


def _measured(profile: Profile) -> Mapping[str, Any]:
    best = max(profile.measured, key=lambda measured: measured.rate)
    return {
        "cpu": profile.machine.cpu,
        "cores": profile.machine.cores,
        "versions": profile.machine.versions,
        "rows_a_second": best.rate,
        "instances": best.cell.instances,
        "threads": best.cell.threads,
        "rows": best.cell.rows,
        "alone_s": profile.alone_s,
        "when": profile.when,
    }
