"""Migration of the TensorFlow Serving servers of a deployment."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from salver.dialects.tensorflow import command as tensorflow
from salver.dialects.tensorflow.config import TensorFlowConfig
from salver.dialects.tensorflow.flags import TENSORFLOW
from salver.kernel.repository.names import is_padded_version
from salver.migration.deployment import ReadText, Sighting
from salver.migration.models import FAILS, Installation, Model, judge_models
from salver.migration.report import (
    FILES,
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
    from salver.configuration import ServeConfig
    from salver.kernel.repository import NamedModel
    from salver.migration.deployment import Deployment, Kind, ServerStart
    from salver.words.artifacts import Manifest

_NAME: Final = "tensorflow-serving"
_HEAD: Final = ("serve", "--compat", _NAME)
_LIST: Final = "models.config"
_PATHS: Final = (
    "model_config_file",
    "batching_parameters_file",
    "monitoring_config_file",
    "ssl_config_file",
    "platform_config_file",
)
#: Kind and message of the file that each flag names.
_MESSAGES: "Final[Mapping[str, tuple[Kind, str]]]" = {
    "model_config_file": ("models", "ModelServerConfig"),
    "batching_parameters_file": ("batching", "BatchingParameters"),
    "monitoring_config_file": ("monitoring", "MonitoringConfig"),
    "platform_config_file": ("platform", "PlatformConfigMap"),
}
_TEXTS: "Final[tuple[tuple[re.Pattern[str], Kind], ...]]" = (
    (re.compile(r"^\s*model_config_list\b|^\s*custom_model_config\b", re.MULTILINE), "models"),
    (re.compile(r"^\s*platform_configs\b", re.MULTILINE), "platform"),
    (re.compile(r"^\s*prometheus_config\b", re.MULTILINE), "monitoring"),
    (re.compile(r"^\s*server_key\s*:", re.MULTILINE), "ssl"),
    (
        re.compile(
            r"^\s*(?:max_batch_size|batch_timeout_micros|num_batch_threads|max_enqueued_batches)\s*:?\s*\{",
            re.MULTILINE,
        ),
        "batching",
    ),
)
_TEXT_NAMES: Final = (".config", ".conf", ".txt", ".pbtxt", ".textproto")


class TensorFlowMigration:
    """TensorFlow Serving's part of ``salver migrate``."""

    name = _NAME
    title = "TensorFlow Serving"

    def recognise(self, path: Path, is_folder: bool, read: ReadText) -> Iterator[Sighting]:
        """Yield the base path of a SavedModel, or a configuration file."""
        if is_folder:
            return
        if path.name == "saved_model.pb" and is_padded_version(path.parent.name):
            yield Sighting("base path", path.parents[1])
        if path.name.lower().endswith(_TEXT_NAMES):
            text = read(path)
            if kind := next((kind for pattern, kind in _TEXTS if pattern.search(text)), None):
                yield Sighting(kind, path)

    def services(self, deployment: "Deployment", installed: Installation) -> list[Service]:
        """Return the servers that command lines start, or else one for the files and base paths."""
        found = [
            _started(started, deployment, installed)
            for started in deployment.started
            if started.launch.server == _NAME
        ]
        if not found and (words := _command_line(deployment)):
            found = [_Survey("", deployment, None, installed).service(words, [], {})]
        served = {place.path for service in found if service.config for place in models_of(service.config)}
        rest = [path for path in deployment.base_paths if str(path) not in served]
        if found and rest:
            found += [_Survey("", deployment, None, installed).service(_of_one(p), [], {}) for p in rest]
        return found

    def is_same(self, service: Service, words: Sequence[str]) -> bool:
        """Return whether a command line stands for the service. Raises SalverError."""
        config = tensorflow.configure(words[len(_HEAD) :], service.environment).config
        before = service.config
        return before is not None and models_of(config) == models_of(before)

    def manifests(self, service: Service, installed: Installation) -> "tuple[Manifest, ...]":
        """Return every version of the service's models, for a repository of Salver's."""
        if service.config is None:
            return ()
        return _manifests(service.config, installed)


def models_of(config: "ServeConfig") -> tuple["NamedModel", ...]:
    """Return the models that a configuration names."""
    return config.table("tensorflow", TensorFlowConfig).served.places or ()


def _manifests(config: "ServeConfig", installed: Installation) -> "tuple[Manifest, ...]":
    """Return every version of the models on this machine that a configuration names."""
    from salver.kernel.repository import Repository

    repository = Repository((), installed.formats, config.repository, named_defaults=config.named_defaults)
    repository.place([place for place in models_of(config) if "://" not in place.path])
    return repository.scan(0.0)


def _command_line(deployment: "Deployment") -> list[str]:
    """Return a command line for the files; empty if there are no models."""
    words = [
        f"--{flag}={deployment.files[kind][0]}"
        for flag, (kind, _) in _MESSAGES.items()
        if len(deployment.files.get(kind, ())) == 1
    ]
    if any(word.startswith("--batching_parameters_file") for word in words):
        words.append("--enable_batching")
    if "models" in deployment.files:
        return words
    bases = deployment.base_paths
    if len(bases) == 1:
        return [*_of_one(bases[0]), *words]
    if bases:
        return [f"--model_config_file={FILES}/{_LIST}", *words]
    return []


def _of_one(path: Path) -> list[str]:
    return [f"--model_name={path.name}", f"--model_base_path={path}"]


def _started(started: "ServerStart", deployment: "Deployment", installed: Installation) -> Service:
    where = position_of(started, deployment)
    lists, bases = deployment.files.get("models", ()), deployment.base_paths
    words, lost = locate_paths(
        started.launch.words, _PATHS, deployment, started, lists[0] if len(lists) == 1 else None
    )
    words, more = locate_paths(
        words, ("model_base_path",), deployment, started, bases[0] if len(bases) == 1 else None
    )
    settings, taken = judge_flags(words, TENSORFLOW, where)
    survey = _Survey(where, deployment, started, installed)
    survey.lost += [*lost, *more]
    return survey.service(taken, settings, started.launch.environment)


class _Survey:
    """Files and models of one server."""

    def __init__(
        self,
        where: str,
        deployment: "Deployment",
        started: "ServerStart | None",
        installed: Installation,
    ) -> None:
        self._where = where
        self._deployment = deployment
        self._started = started
        self._installed = installed
        self._files: dict[str, bytes] = {}
        self.lost: list[str] = []

    def service(
        self, words: Sequence[str], settings: list[Setting], environment: Mapping[str, str]
    ) -> Service:
        """Return the server with its models and settings."""
        config: ServeConfig | None = None
        models: tuple[Model, ...] = ()
        remarks: tuple[str, ...] = ()
        problem = ""
        try:
            words = self._with_files(words)
            with tempfile.TemporaryDirectory(prefix="salver-migrate-") as folder:
                for name, content in self._files.items():
                    Path(folder, name).write_bytes(content)
                named = [word.replace(FILES, folder) for word in words]
                settings = settings + self._keys(named, folder)
                start = tensorflow.configure(named, environment)
            config, remarks = start.config, tuple(filter(None, [start.remark]))
            notices = [notice.replace(f"{folder}/", "") for notice in start.notices]
            settings += settings_of_notices(_NAME, notices, settings, self._deployment.folder)
            models = self._models(config)
        except SalverError as error:
            problem = str(error)
        problem = "; ".join(self.lost) or problem
        return Service(
            _NAME,
            self._where,
            (*_HEAD, *words),
            models,
            tuple(dict.fromkeys(settings)),
            self._files,
            problem,
            remarks,
            config,
            relevant(environment),
        )

    def _models(self, config: "ServeConfig") -> tuple[Model, ...]:
        manifests = _manifests(config, self._installed)
        models = judge_models(_NAME, manifests, self._installed.backends, trusts_pickle=config.trust_pickle)
        found = {model.name for model in models}
        lost = [_lost(place.name, place.path) for place in models_of(config) if place.name not in found]
        return (*models, *lost)

    def _with_files(self, words: Sequence[str]) -> list[str]:
        """Return the command line with a list of models whose base paths are in this folder."""
        found = []
        for word in words:
            flag, _, path = word.partition("=")
            if flag == "--model_config_file":
                content, is_changed = self._list(path)
                if is_changed:
                    self._files[_LIST] = content
                    word = f"{flag}={FILES}/{_LIST}"
            found.append(word)
        return found

    def _list(self, path: str) -> tuple[bytes, bool]:
        """Return the list of models, and whether it had to be changed."""
        from google.protobuf import text_format

        from salver.dialects.tensorflow import tf_schema, tf_text
        from salver.dialects.tensorflow.reloading import read

        if path.startswith(FILES):
            message = tf_schema.build()["ModelServerConfig"]()
            for base in self._deployment.base_paths:
                message.model_config_list.config.add(
                    name=base.name, base_path=str(base), model_platform="tensorflow"
                )
            return text_format.MessageToString(message).encode(), True
        content = read(path)
        message = tf_text.parse(content, "ModelServerConfig", path)
        is_changed = False
        for model in message.model_config_list.config:
            here = self._here(model.base_path)
            if here and here != model.base_path.rstrip("/"):
                model.base_path, is_changed = here, True
        return (text_format.MessageToString(message).encode() if is_changed else content), is_changed

    def _here(self, base_path: str) -> str:
        """Return the place of a base path in the folder; empty if there is none, or not on this machine."""
        if "://" in base_path or not base_path:
            return ""
        from salver.migration.command_lines import Launch

        launch, beside = Launch("tensorflow-serving", ()), self._deployment.folder / "."
        if self._started:
            launch, beside = self._started.launch, self._started.file
        found = self._deployment.find(base_path, launch, beside)
        return str(found) if found else ""

    def _keys(self, words: Sequence[str], folder: str) -> list[Setting]:
        """Return the effect of each key of the files that the flags name."""
        from salver.dialects.tensorflow import tf_text
        from salver.dialects.tensorflow.model_list import without_effect
        from salver.dialects.tensorflow.reloading import read

        found: list[Setting] = []
        for word in words:
            flag, _, path = word.partition("=")
            described = _MESSAGES.get(flag.removeprefix("--"))
            if described is None or not path:
                continue
            message = tf_text.parse(read(path), described[1], path)
            without = without_effect(message) if described[0] == "models" else ()
            where = path.replace(f"{folder}/", "").replace(f"{self._deployment.folder}/", "")
            for key in dict.fromkeys(_leaves(message)):
                has_none = any(f"{key}.".find(f"{each}.") >= 0 for each in without)
                found.append(Setting(_NAME, where, key, "", "no effect" if has_none else "used"))
        return found


def _lost(name: str, path: str) -> Model:
    problem, fix = "there is no version below its base path", "Bring its folder along."
    if "://" in path:
        problem = "it is in an object store, which was not checked"
        fix = f"Check it with salver doctor {path}."
    return Model(_NAME, name, (), path, "", "", True, FAILS, (problem,), fix)


def _leaves(message: Any, prefix: str = "") -> Iterator[str]:
    from salver.encoding.set_fields import set_fields

    for path in set_fields(message, prefix):
        yield path.removesuffix(".value")
