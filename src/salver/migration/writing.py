"""Writing of start scripts, files and repositories that replace a deployment.

Each server gets a folder with a start script, the files that it names, and, where its dialect wants one, a
repository of Salver's own. All of it is read back before it is put into place. The deployment stays as it is.
"""

import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.kernel.repository import Repository
from salver.kernel.repository.toml_writer import to_toml
from salver.migration.models import Installation
from salver.migration.ports import ServerMigration
from salver.migration.report import FILES, Service
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import Conflict, InvalidInput, LoadFailed

SCRIPT: Final = "serve.sh"
_MODELS: Final = "models"
_HERE: Final = 'here=$(cd "$(dirname "$0")" && pwd)'


def write(
    services: Sequence[Service],
    target: Path,
    folder: Path,
    servers: Mapping[str, ServerMigration],
    installed: Installation,
) -> list[Path]:
    """Write and check everything, then put it into place; return the paths of the files.

    Args:
        target: A folder to make, or a start script (``.sh``) for a server that needs nothing else.
        folder: The deployment's, which is not written into.
        servers: By name.

    Raises:
        InvalidInput: there is nothing to write, or the target is not allowed.
        Conflict: the target exists already.
        LoadFailed: what was written is not read as the deployment was.
    """
    _check(services, target, folder)
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".salver-migrate-", dir=target.parent) as work:
        place = Path(work) / "written"
        if target.suffix == ".sh":
            _script(place, services[0])
            _verify(services[0], Path(work), servers[services[0].server])
        else:
            for name, service in zip(_names(services), services, strict=True):
                _write_service(place / name, service, servers[service.server], installed)
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
            f"{target} is inside the deployment, which is not changed", fix="Name a folder beside it."
        )
    if bad := next((service for service in services if service.problem), None):
        raise InvalidInput(f"{bad.where or bad.server} would not start: {bad.problem}")
    if target.suffix == ".sh" and (len(services) > 1 or services[0].files):
        raise InvalidInput("one script is not enough here", fix="Name a folder for what it needs.")


def _names(services: Sequence[Service]) -> list[str]:
    """Return a folder's name for each service; the folder itself if there is only one."""
    if len(services) == 1:
        return ["."]
    count: dict[str, int] = {}
    names = []
    for service in services:
        count[service.server] = number = count.get(service.server, 0) + 1
        names.append(service.server if number == 1 else f"{service.server}-{number}")
    return names


def _is_linked(path: Path, place: Path) -> bool:
    """Return whether the path lies behind a link to the deployment."""
    return any(parent.is_symlink() for parent in (path, *path.parents) if parent.is_relative_to(place))


def _write_service(place: Path, service: Service, server: ServerMigration, installed: Installation) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, content in service.files.items():
        (place / name).write_bytes(content)
    _script(place / SCRIPT, service)
    _verify(service, place, server)
    if manifests := server.manifests(service, installed):
        comment = f"What the configuration of {server.title} says of it."
        _write_repository(place / _MODELS, manifests, comment, installed)


def _script(path: Path, service: Service) -> None:
    """Write the command line as a program."""
    words = " \\\n  ".join(['"$here"'.join(map(_quoted, word.split(FILES))) for word in service.words])
    origin = service.where and f"# In place of {service.where}.\n"
    sets = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in service.environment.items())
    path.write_text(f'#!/bin/sh\n{origin}{sets}{_HERE}\nexec salver {words} "$@"\n')
    path.chmod(0o755)


def _quoted(part: str) -> str:
    return part and shlex.quote(part)


def _verify(service: Service, place: Path, server: ServerMigration) -> None:
    """Raise LoadFailed if the command line means something else than before it was written."""
    if not server.is_same(service, service.words_in(str(place))):
        raise LoadFailed(f"{service.command()} has another meaning after it was written")


def _write_repository(
    root: Path, manifests: Iterable[Manifest], comment: str, installed: Installation
) -> None:
    """Write a server's models as a repository of Salver's own, for ``salver serve models``."""
    wanted = {}
    for manifest in manifests:
        if manifest.problem:
            continue
        version = str(int(manifest.id.version))
        model = root / manifest.id.name
        model.mkdir(parents=True, exist_ok=True)
        (model / version).symlink_to(_version_of(manifest), target_is_directory=True)
        (model / "salver.toml").write_text(to_toml(_plain(manifest), comment))
        wanted[manifest.id.name, version] = _plain(manifest)
    if not wanted:
        return
    found = Repository((root,), installed.formats).scan(0.0)
    there = {(m.id.name, m.id.version): m.config for m in found if not m.problem}
    if there != wanted:
        reasons = "; ".join(m.problem for m in found if m.problem)
        shutil.rmtree(root)
        raise LoadFailed(f"the repository that was written does not hold: {reasons or 'other models'}")


def _version_of(manifest: Manifest) -> Path:
    """Return a version's folder."""
    path = manifest.path
    if path.name == manifest.id.version:
        return path
    return path.parent


def _plain(manifest: Manifest) -> ModelConfig:
    """Return a configuration with version numbers without leading zeros."""
    config = manifest.config
    versions = config.versions
    specific = tuple(str(int(v)) if v.isdecimal() else v for v in versions.specific)
    labels = {name: str(int(v)) if v.isdecimal() else v for name, v in config.labels.items()}
    return msgspec.structs.replace(
        config, versions=msgspec.structs.replace(versions, specific=specific), labels=labels
    )
