"""Migration of the TorchServe servers of a deployment."""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from salver.dialects.torchserve import command as torchserve
from salver.dialects.torchserve import java_properties
from salver.dialects.torchserve import settings as torchserve_settings
from salver.dialects.torchserve.archive_files import MANIFEST, read_archive
from salver.dialects.torchserve.flags import IGNORED as NO_FLAGS
from salver.dialects.torchserve.flags import parse
from salver.dialects.torchserve.migration_archives import ArchiveJudge
from salver.dialects.torchserve.property_keys import IGNORED, KEYS
from salver.migration.deployment import ReadText, Sighting
from salver.migration.models import Installation, Model
from salver.migration.report import FILES, Service, Setting, locate_paths, position_of, relevant, split_flags
from salver.words.errors import BadArchive, InvalidInput, SalverError

if TYPE_CHECKING:
    from salver.migration.deployment import Deployment, ServerStart
    from salver.words.artifacts import Manifest

_NAME: Final = "torchserve"
_FILE: Final = "config.properties"
_PATHS: Final = ("ts-config", "model-store", "workflow-store")
#: Keys of config.properties that name a file or folder.
_PLACES: Final = (
    "model_store",
    "workflow_store",
    "metrics_config",
    "keystore",
    "certificate_file",
    "private_key_file",
)
_PLACEHOLDER: Final = re.compile(r"\$\$([^$]+)\$\$")
_ALONE: Final = ("--foreground",)
_UNKNOWN: Final = "TorchServe 0.12 does not know it either; it is left out"
_ARCHIVES: Final = (".mar", ".tar.gz", ".tgz")
_PROPERTIES: Final = re.compile(
    r"^\s*(?:inference_address|management_address|model_store|load_models|metrics_address|model_snapshot|"
    r"default_workers_per_model|service_envelope|enable_model_api|disable_token_authorization)\s*[=:]",
    re.MULTILINE,
)


class TorchServeMigration:
    """TorchServe, for ``salver migrate``."""

    name = _NAME
    title = "TorchServe"

    def recognise(self, path: Path, is_folder: bool, read: ReadText) -> Iterator[Sighting]:
        """Yield an archive, packed or not, or a ``config.properties``."""
        if is_folder:
            if (path / MANIFEST).is_file():
                yield Sighting("archive", path)
        elif path.name.endswith(_ARCHIVES):
            if path.name.endswith(".mar") or _has_name(path):
                yield Sighting("archive", path)
        elif path.name.lower().endswith((".properties", ".cfg")) and _PROPERTIES.search(read(path)):
            yield Sighting("properties", path)

    def services(self, deployment: "Deployment", installed: Installation) -> list[Service]:
        """Return the servers that command lines start; else one made of what lies there."""
        found = [
            _Survey(deployment, installed, started).service(started.launch.words)
            for started in deployment.started
            if started.launch.server == _NAME
        ]
        if found:
            return found
        words = ["--start", "--foreground"]
        if files := deployment.files.get("properties", ()):
            words += [f"--ts-config={files[0]}"]
        elif stores := _stores(deployment):
            words += [f"--model-store={stores[0]}", "--models=all"]
        else:
            return []
        return [_Survey(deployment, installed, None).service(words)]

    def is_same(self, service: Service, words: Sequence[str]) -> bool:
        """Return whether a command line means what the service means. Raises SalverError."""
        torchserve.configure(parse(words[1:]), service.environment)
        return True

    def manifests(self, service: Service, installed: Installation) -> "tuple[Manifest, ...]":
        """Return nothing: archives are served as they are."""
        return ()


def _has_name(path: Path) -> bool:
    """Return whether an archive says which model it is."""
    try:
        return bool(read_archive(path).name)
    except BadArchive:
        return False


def _stores(deployment: "Deployment") -> list[Path]:
    """Return the folders of archives, the fullest first."""
    return sorted(deployment.archives, key=lambda place: -len(deployment.archives[place]))


class _Survey:
    """One server's files and models."""

    def __init__(
        self, deployment: "Deployment", installed: Installation, started: "ServerStart | None"
    ) -> None:
        self._deployment = deployment
        self._installed = installed
        self._started = started
        self._settings: list[Setting] = []
        self._files: dict[str, bytes] = {}
        self._lost: list[str] = []
        self._named: set[str] = set()  # variables in the file

    def service(self, words: Sequence[str]) -> Service:
        """Return the server with its models and settings."""
        where = ""
        environment: Mapping[str, str] = {}
        if self._started:
            where = position_of(self._started, self._deployment)
            environment = self._started.launch.environment
        words = self._locate([word for word in words if word not in _ALONE])
        taken = self._flags(words, where)
        models: tuple[Model, ...] = ()
        problem = ""
        try:
            options = parse(taken)
            values = self._properties(options.config, taken)
            settings = torchserve_settings.Settings(
                torchserve_settings.Source(values, options.config), options.settings(), environment
            )
            models = self._models(settings)
        except SalverError as error:
            problem = str(error)
        remarks: tuple[str, ...] = ()
        if not problem and not {"--disable-token-auth", "--dt"} & set(taken):
            remarks = self._remarks()
        return Service(
            _NAME,
            where,
            (_NAME, *self._foreground(taken)),
            models,
            tuple(dict.fromkeys(self._settings)),
            self._files,
            "; ".join(self._lost) or problem,
            remarks,
            environment=relevant(environment, self._named),
        )

    def _locate(self, words: Sequence[str]) -> list[str]:
        """Return the words with paths of this folder."""
        files = self._deployment.files.get("properties", ())
        candidates = (files if len(files) == 1 else (), _stores(self._deployment))
        found = list(words)
        if self._started is not None:
            for names, places in zip((_PATHS[:1], _PATHS[1:]), candidates, strict=True):
                usual = next(iter(places), None)
                found, lost = locate_paths(found, names, self._deployment, self._started, usual)
                self._lost += lost
        return found

    def _flags(self, words: Sequence[str], where: str) -> list[str]:
        """Record the effect of each option; return the words of those that are taken."""
        taken: list[str] = []
        for group in split_flags(words):
            name, equals, value = group[0].partition("=")
            if not equals:
                value = " ".join(group[1:])
            output = io.StringIO()
            try:
                with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
                    parse(group)
            except SystemExit:
                reason = output.getvalue().strip().rpartition("error: ")[2]
                self._settings.append(Setting(_NAME, where, name, value, "refused", reason))
                continue
            taken += group
            if name in NO_FLAGS:
                self._settings.append(Setting(_NAME, where, name, value, "no effect", NO_FLAGS[name]))
            else:
                self._settings.append(Setting(_NAME, where, name, value, "used"))
        return taken

    def _foreground(self, words: Sequence[str]) -> list[str]:
        """Return the command line of a server in the foreground, with the files that were changed."""
        found = [word for word in words if word != "--start"]
        if _FILE in self._files:
            found = [word for word in found if not word.startswith("--ts-config")]
            found.append(f"--ts-config={FILES}/{_FILE}")
        return ["--start", "--foreground", *found]

    def _properties(self, path: str, words: list[str]) -> dict[str, str]:
        """Return a file's values with the paths of this folder; record the effect of each key."""
        if not path:
            return {}
        values = dict(torchserve_settings.read(path).values)
        where = path.replace(f"{self._deployment.folder}/", "")
        kept: dict[str, str] = {}
        for name, value in values.items():
            if name not in KEYS:
                self._settings.append(Setting(_NAME, where, name, value, "no effect", _UNKNOWN))
                continue
            self._named |= set(_PLACEHOLDER.findall(value))
            kept[name] = self._placed(name, value, words)
            if name in IGNORED:
                about = IGNORED[name].about
                self._settings.append(Setting(_NAME, where, name, value, "no effect", about))
            else:
                self._settings.append(Setting(_NAME, where, name, value, "used"))
        if kept != values:
            comment = f"{where} as salver migrate has made it: paths of this machine, and known keys"
            self._files[_FILE] = java_properties.format_properties(kept, [comment]).encode()
        return kept

    def _placed(self, name: str, value: str, words: Sequence[str]) -> str:
        """Return a path as it is in this folder; any other value unchanged."""
        if name not in _PLACES or not value or any(f"--{name.replace('_', '-')}" in word for word in words):
            return value
        from salver.migration.command_lines import Launch

        launch, beside = Launch(_NAME, ()), self._deployment.folder / _FILE
        if self._started:
            launch, beside = self._started.launch, self._started.file
        here = self._deployment.find(value, launch, beside)
        if here is None and name == "model_store" and (stores := _stores(self._deployment)):
            here = stores[0]
        if here is not None:
            return str(here)
        if name != "workflow_store":
            self._lost.append(f"{name}={value} is not in {self._deployment.folder}")
        return value

    def _models(self, settings: "torchserve_settings.Settings") -> tuple[Model, ...]:
        store = settings.text("model_store")
        if not store:
            raise InvalidInput("no model store is given", fix="Add --model-store FOLDER.")
        judge = ArchiveJudge(
            self._deployment.folder, self._installed, installs=settings.is_on("install_py_dep_per_model")
        )
        archives = self._deployment.archives.get(Path(store).resolve(), ())
        models = tuple(judge.model(path) for path in archives)
        self._settings += judge.settings
        return models

    def _remarks(self) -> tuple[str, ...]:
        is_off = any(
            setting.name == "disable_token_authorization" and setting.value.strip().lower() == "true"
            for setting in self._settings
        )
        if is_off:
            return ()
        return ("callers need the tokens in key_file.json, as with TorchServe; or add --disable-token-auth",)
