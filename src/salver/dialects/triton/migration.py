"""How does Salver take the place of the Triton servers of a deployment?"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from salver.dialects.triton import command as triton
from salver.dialects.triton.flags import TRITON
from salver.migration.models import judged
from salver.migration.report import Service, Setting, counting, flags_judged, located, noticed, place_of
from salver.words.errors import SalverError

if TYPE_CHECKING:
    from salver.backends.protocol import Backend
    from salver.migration.deployment import Deployment, Started
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
_HEAD: Final = ("serve", "--compat", "triton")


def services(deployment: "Deployment", backends: "Mapping[str, Backend]") -> list[Service]:
    """Those that command lines start, and one for the repositories that none names."""
    found = []
    named: set[Path] = set()
    for started in deployment.started:
        if started.launch.server == "triton":
            service = _started(started, deployment, backends)
            named |= {Path(path) for path in service.config.paths} if service.config else set()
            found.append(service)
    rest = [path for path in deployment.repositories if path not in named]
    if rest:
        words = [f"--model-repository={path}" for path in rest]
        found.append(_service("", words, [], deployment, backends, {}))
    return found


def _started(started: "Started", deployment: "Deployment", backends: "Mapping[str, Backend]") -> Service:
    where = place_of(started, deployment)
    only = deployment.repositories[0] if len(deployment.repositories) == 1 else None
    words, lost = located(started.launch.words, _PATHS, deployment, started, only)
    settings, taken = flags_judged(words, TRITON, where)
    service = _service(where, taken, settings, deployment, backends, started.launch.environment)
    problem, environment = "; ".join(lost) or service.problem, counting(started.launch.environment)
    return msgspec.structs.replace(service, problem=problem, environment=environment)


def _service(
    where: str,
    words: list[str],
    settings: list[Setting],
    deployment: "Deployment",
    backends: "Mapping[str, Backend]",
    environment: Mapping[str, str],
) -> Service:
    from salver.backends.discovery import recogniser
    from salver.dialects.formats import formats
    from salver.kernel.repository import Repository

    try:
        start = triton.configure(words, environment)
        config = start.config
        paths = [path for path in config.paths if "://" not in path]
        manifests = (
            Repository(paths, formats(recogniser(backends)), config.repository).scan(0.0) if paths else ()
        )
    except SalverError as error:
        return Service("triton", where, (*_HEAD, *words), settings=tuple(settings), problem=str(error))
    settings = settings + noticed("triton", start.notices, settings, deployment.folder)
    settings += dict.fromkeys(each for manifest in manifests for each in _fields(manifest, deployment))
    distant = [f"{path} was not looked at" for path in config.paths if "://" in path]
    remarks = tuple(filter(None, [start.remark, *distant]))
    models = judged("triton", manifests, backends, trusts_pickle=config.trust_pickle)
    return Service("triton", where, (*_HEAD, *words), models, tuple(settings), remarks=remarks, config=config)


def _fields(manifest: "Manifest", deployment: "Deployment") -> list[Setting]:
    """What becomes of each field of a ``config.pbtxt``."""
    from salver.dialects.triton.config.translate import leaves
    from salver.dialects.triton.model_config import model_config_class

    if not manifest.triton:
        return []
    message = model_config_class().FromString(manifest.triton)
    where = f"{manifest.home.relative_to(deployment.folder)}/config.pbtxt"
    without = {}
    for notice in manifest.notices:
        for field in notice.split("`")[1:2]:
            without[field] = notice.partition("` ")[2]
    found = []
    paths = ("parameters" if path.startswith("parameters.") else path for path in leaves(message))
    for path in dict.fromkeys(paths):
        why = next((why for field, why in without.items() if f"{path}.".startswith(f"{field}.")), "")
        found.append(Setting("triton", where, path, "", "no effect" if why else "used", why))
    return found
