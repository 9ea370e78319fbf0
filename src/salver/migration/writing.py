"""How is what takes a deployment's place written down, and does it hold?

A folder for each server: a start script, the files that it names, and for TensorFlow Serving's models a
repository of Salver's own. All of it is read back before it counts. The deployment stays as it is.
"""

import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from salver.dialects.tensorflow import command as tensorflow
from salver.dialects.tensorflow.migration import manifests_of, models_of
from salver.dialects.torchserve import command as torchserve
from salver.dialects.torchserve.flags import parse
from salver.dialects.triton import command as triton
from salver.migration.report import FILES, Service
from salver.words.errors import Conflict, InvalidInput, LoadFailed

if TYPE_CHECKING:
    from salver.backends.protocol import Backend
    from salver.words.artifacts import Manifest, ModelConfig

SCRIPT: Final = "serve.sh"
_MODELS: Final = "models"
_HERE: Final = 'here=$(cd "$(dirname "$0")" && pwd)'


def write(
    services: Sequence[Service], target: Path, folder: Path, backends: "Mapping[str, Backend]"
) -> list[Path]:
    """Write, check, and only then put into place; the files by their paths.

    Args:
        target: A folder that is made, or a start script (``.sh``) for a server that needs no more.
        folder: The deployment's, which is not written into.

    Raises:
        InvalidInput: there is nothing to write, or not there.
        Conflict: something is there already.
        LoadFailed: what was written does not hold.
    """
    _check(services, target, folder)
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".salver-migrate-", dir=target.parent) as work:
        place = Path(work) / "written"
        if target.suffix == ".sh":
            _script(place, services[0])
            _hold(services[0], Path(work))
        else:
            for name, service in zip(_names(services), services, strict=True):
                _place(place / name, service, backends)
        found = sorted(path for path in place.rglob("*") if path.is_file() and not _is_linked(path, place))
        place.rename(target)
        return [target / path.relative_to(place) for path in found] or [target]


def _check(services: Sequence[Service], target: Path, folder: Path) -> None:
    if not services:
        raise InvalidInput("there is nothing to write: nothing was recognised")
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} is there already", fix="Name a folder that is not there.")
    if target.resolve().is_relative_to(folder.resolve()):
        raise InvalidInput(
            f"{target} lies in the deployment, which stays as it is", fix="Name a folder beside it."
        )
    if bad := next((service for service in services if service.problem), None):
        raise InvalidInput(f"{bad.where or bad.server} would not start: {bad.problem}")
    if target.suffix == ".sh" and (len(services) > 1 or services[0].files):
        raise InvalidInput("one script is not enough here", fix="Name a folder for what it needs.")


def _names(services: Sequence[Service]) -> list[str]:
    """A folder for each, where there are several."""
    if len(services) == 1:
        return ["."]
    count: dict[str, int] = {}
    names = []
    for service in services:
        count[service.server] = number = count.get(service.server, 0) + 1
        names.append(service.server if number == 1 else f"{service.server}-{number}")
    return names


def _is_linked(path: Path, place: Path) -> bool:
    """Does it lie behind a link to the deployment?"""
    return any(parent.is_symlink() for parent in (path, *path.parents) if parent.is_relative_to(place))


def _place(place: Path, service: Service, backends: "Mapping[str, Backend]") -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, content in service.files.items():
        (place / name).write_bytes(content)
    _script(place / SCRIPT, service)
    _hold(service, place)
    if service.server == "tensorflow-serving" and service.config is not None:
        _repository(place / _MODELS, manifests_of(service.config, backends), backends)


def _script(path: Path, service: Service) -> None:
    """The command line, as a program."""
    words = " \\\n  ".join(['"$here"'.join(map(_quoted, word.split(FILES))) for word in service.words])
    origin = f"# In place of {service.where}.\n" if service.where else ""
    sets = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in service.environment.items())
    path.write_text(f'#!/bin/sh\n{origin}{sets}{_HERE}\nexec salver {words} "$@"\n')
    path.chmod(0o755)


def _quoted(part: str) -> str:
    return shlex.quote(part) if part else ""


def _hold(service: Service, place: Path) -> None:
    """Raises LoadFailed where its command line is not taken as it was written."""
    words = service.words_in(str(place))
    if service.server == "torchserve":
        torchserve.configure(parse(words[1:]), service.environment)
        return
    configure = triton.configure if service.server == "triton" else tensorflow.configure
    config = configure(words[3:], service.environment).config
    before = service.config
    if before is None or (config.paths, models_of(config)) != (before.paths, models_of(before)):
        raise LoadFailed(f"{service.command()} does not mean what it meant before it was written")


def _repository(root: Path, manifests: "Iterable[Manifest]", backends: "Mapping[str, Backend]") -> None:
    """TensorFlow Serving's models as a repository of Salver's own: ``salver serve models``."""
    from salver.backends.discovery import recogniser
    from salver.dialects.formats import formats
    from salver.kernel.repository import Repository
    from salver.kernel.repository.toml_written import written

    wanted = {}
    for manifest in manifests:
        if manifest.problem:
            continue
        version = str(int(manifest.id.version))
        model = root / manifest.id.name
        model.mkdir(parents=True, exist_ok=True)
        (model / version).symlink_to(_version_of(manifest), target_is_directory=True)
        text = written(_plain(manifest), "What models.config and the flags of TensorFlow Serving say of it.")
        (model / "salver.toml").write_text(text)
        wanted[manifest.id.name, version] = _plain(manifest)
    if not wanted:
        return
    found = Repository((root,), formats(recogniser(backends))).scan(0.0)
    there = {(m.id.name, m.id.version): m.config for m in found if not m.problem}
    if there != wanted:
        reasons = "; ".join(m.problem for m in found if m.problem)
        shutil.rmtree(root)
        raise LoadFailed(f"the repository that was written does not hold: {reasons or 'other models'}")


def _version_of(manifest: "Manifest") -> Path:
    """Its folder."""
    path = manifest.path
    return path if path.name == manifest.id.version else path.parent


def _plain(manifest: "Manifest") -> "ModelConfig":
    """Its configuration, with versions as numbers without zeros before them."""
    config = manifest.config
    versions = config.versions
    specific = tuple(str(int(v)) if v.isdecimal() else v for v in versions.specific)
    labels = {name: str(int(v)) if v.isdecimal() else v for name, v in config.labels.items()}
    return msgspec.structs.replace(
        config, versions=msgspec.structs.replace(versions, specific=specific), labels=labels
    )
