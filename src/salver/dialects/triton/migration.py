"""Migration of the Triton servers of a deployment."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from salver.dialects.triton import command as triton
from salver.dialects.triton.config import pbtxt
from salver.dialects.triton.flags import TRITON
from salver.kernel.repository.names import is_padded_version
from salver.migration.deployment import ReadText, Sighting
from salver.migration.models import Installation, judge_models
from salver.migration.report import (
    Service,
    Setting,
    judge_flags,
    locate_paths,
    position_of,
    relevant,
    settings_of_notices,
)
from salver.words.errors import SalverError

if TYPE_CHECKING:
    from salver.migration.deployment import Deployment, ServerStart
    from salver.words.artifacts import Manifest

_PATHS: Final = (
    "model-repository",
    "model-store",
    "backend-directory",
    "grpc-server-cert",
    "grpc-server-key",
    "grpc-root-cert",
    "tokenizer",
    "chat-template",
)
_NAME: Final = "triton"
_HEAD: Final = ("serve", "--compat", _NAME)
#: Artefacts that Triton's backends look for in a version's folder.
_ARTEFACT: Final = re.compile(r"model\.(?:onnx|pt|py|plan|xml|savedmodel|graphdef|json|txt|dali|pt2)")


class TritonMigration:
    """Triton's part of ``salver migrate``."""

    name = _NAME
    title = "Triton"

    def recognise(self, path: Path, is_folder: bool, read: ReadText) -> Iterator[Sighting]:
        """Yield the repository that a file belongs to."""
        above = path.parents
        if is_folder:
            return
        if path.name == pbtxt.FILE:
            yield Sighting("repository", above[1])
        elif path.name == "saved_model.pb" and path.parent.name == "model.savedmodel" and len(above) > 3:
            yield Sighting("repository", above[3])
        elif is_padded_version(path.parent.name) and _ARTEFACT.fullmatch(path.name) and len(above) > 2:
            yield Sighting("repository", above[2])

    def services(self, deployment: "Deployment", installed: Installation) -> list[Service]:
        """Return the servers that command lines start, and one for repositories that none names."""
        found = []
        named: set[Path] = set()
        for started in deployment.started:
            if started.launch.server == _NAME:
                service = _started(started, deployment, installed)
                if service.config:
                    named |= set(map(Path, service.config.paths))
                found.append(service)
        rest = [path for path in deployment.repositories if path not in named]
        if rest:
            words = [f"--model-repository={path}" for path in rest]
            found.append(_service("", words, [], deployment, installed, {}))
        return found

    def is_same(self, service: Service, words: Sequence[str]) -> bool:
        """Return whether a command line stands for the service. Raises SalverError."""
        config = triton.configure(words[len(_HEAD) :], service.environment).config
        return service.config is not None and config.paths == service.config.paths

    def manifests(self, service: Service, installed: Installation) -> "tuple[Manifest, ...]":
        """Return nothing: a repository of Triton's is one of Salver's."""
        return ()


def _started(started: "ServerStart", deployment: "Deployment", installed: Installation) -> Service:
    where = position_of(started, deployment)
    only = deployment.repositories[0] if len(deployment.repositories) == 1 else None
    words, lost = locate_paths(started.launch.words, _PATHS, deployment, started, only)
    settings, taken = judge_flags(words, TRITON, where)
    service = _service(where, taken, settings, deployment, installed, started.launch.environment)
    problem, environment = "; ".join(lost) or service.problem, relevant(started.launch.environment)
    return msgspec.structs.replace(service, problem=problem, environment=environment)


def _service(
    where: str,
    words: list[str],
    settings: list[Setting],
    deployment: "Deployment",
    installed: Installation,
    environment: Mapping[str, str],
) -> Service:
    from salver.kernel.repository import Repository

    try:
        start = triton.configure(words, environment)
        config = start.config
        paths = [path for path in config.paths if "://" not in path]
        manifests = Repository(paths, installed.formats, config.repository).scan(0.0) if paths else ()
    except SalverError as error:
        return Service(_NAME, where, (*_HEAD, *words), settings=tuple(settings), problem=str(error))
    settings = settings + settings_of_notices(_NAME, start.notices, settings, deployment.folder)
    settings += dict.fromkeys(each for manifest in manifests for each in _fields(manifest, deployment))
    distant = [f"{path} was not looked at" for path in config.paths if "://" in path]
    remarks = tuple(filter(None, [start.remark, *distant]))
    models = judge_models(_NAME, manifests, installed.backends, trusts_pickle=config.trust_pickle)
    return Service(_NAME, where, (*_HEAD, *words), models, tuple(settings), remarks=remarks, config=config)


def _fields(manifest: "Manifest", deployment: "Deployment") -> list[Setting]:
    """Return the effect of each field of a ``config.pbtxt``."""
    from salver.dialects.triton.model_config import model_config_class
    from salver.encoding.set_fields import set_fields

    if not manifest.foreign_config:
        return []
    message = model_config_class().FromString(manifest.foreign_config)
    where = f"{manifest.home.relative_to(deployment.folder)}/config.pbtxt"
    without = {}
    for notice in manifest.notices:
        for field in notice.split("`")[1:2]:
            without[field] = notice.partition("` ")[2]
    found = []
    paths = ("parameters" if path.startswith("parameters.") else path for path in set_fields(message))
    for path in dict.fromkeys(paths):
        why = next((why for field, why in without.items() if f"{path}.".startswith(f"{field}.")), "")
        found.append(Setting(_NAME, where, path, "", "no effect" if why else "used", why))
    return found
