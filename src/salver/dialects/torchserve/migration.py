"""How does Salver take the place of the TorchServe servers of a deployment?"""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from salver.dialects.torchserve import java_properties
from salver.dialects.torchserve import settings as torchserve_settings
from salver.dialects.torchserve.flags import IGNORED as NO_FLAGS
from salver.dialects.torchserve.flags import parse
from salver.dialects.torchserve.migration_archives import Judge
from salver.dialects.torchserve.property_keys import IGNORED, KEYS
from salver.migration.models import Model
from salver.migration.report import FILES, Service, Setting, counting, in_flags, located, place_of
from salver.words.errors import InvalidInput, SalverError

if TYPE_CHECKING:
    from salver.backends.protocol import Backend
    from salver.migration.deployment import Deployment, Started

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
_UNKNOWN: Final = "TorchServe 0.12 does not know it, either; it is left out"


def services(deployment: "Deployment", backends: "Mapping[str, Backend]") -> list[Service]:
    """Those that command lines start; else one that is made of what lies there."""
    found = [
        _Survey(deployment, backends, started).service(started.launch.words)
        for started in deployment.started
        if started.launch.server == _NAME
    ]
    if found:
        return found
    files, stores = deployment.files.get("properties", ()), _stores(deployment)
    if not files and not stores:
        return []
    words = ["--start", "--foreground"]
    words += [f"--ts-config={files[0]}"] if files else []
    words += [f"--model-store={stores[0]}", "--models=all"] if stores and not files else []
    return [_Survey(deployment, backends, None).service(words)]


def _stores(deployment: "Deployment") -> list[Path]:
    """Folders of archives, the fullest first."""
    return sorted(deployment.archives, key=lambda place: -len(deployment.archives[place]))


class _Survey:
    """One server's files and models."""

    def __init__(
        self, deployment: "Deployment", backends: "Mapping[str, Backend]", started: "Started | None"
    ) -> None:
        self._deployment = deployment
        self._backends = backends
        self._started = started
        self._settings: list[Setting] = []
        self._files: dict[str, bytes] = {}
        self._lost: list[str] = []
        self._named: set[str] = set()  # variables that the file wants

    def service(self, words: Sequence[str]) -> Service:
        """With its models and settings."""
        where = place_of(self._started, self._deployment) if self._started else ""
        environment = self._started.launch.environment if self._started else {}
        words = self._here([word for word in words if word not in _ALONE])
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
        remarks = () if "--disable-token-auth" in taken or "--dt" in taken else self._remarks(problem)
        return Service(
            _NAME,
            where,
            (_NAME, *self._whole(taken)),
            models,
            tuple(dict.fromkeys(self._settings)),
            self._files,
            "; ".join(self._lost) or problem,
            remarks,
            environment=counting(environment, self._named),
        )

    def _here(self, words: Sequence[str]) -> list[str]:
        if self._started is None:
            return list(words)
        files = self._deployment.files.get("properties", ())
        stores = _stores(self._deployment)
        found, lost = located(
            words, _PATHS[:1], self._deployment, self._started, files[0] if len(files) == 1 else None
        )
        found, more = located(
            found, _PATHS[1:], self._deployment, self._started, stores[0] if stores else None
        )
        self._lost += [*lost, *more]
        return found

    def _flags(self, words: Sequence[str], where: str) -> list[str]:
        """What becomes of each option; and the words of those that are taken."""
        taken: list[str] = []
        for group in in_flags(words):
            name, equals, value = group[0].partition("=")
            value = value if equals else " ".join(group[1:])
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                    parse(group)
            except SystemExit:
                reason = said.getvalue().strip().rpartition("error: ")[2]
                self._settings.append(Setting(_NAME, where, name, value, "refused", reason))
                continue
            taken += group
            why = NO_FLAGS.get(name, "")
            becomes = "no effect" if why else "used"
            self._settings.append(Setting(_NAME, where, name, value, becomes, why))  # type: ignore[arg-type]
        return taken

    def _whole(self, words: Sequence[str]) -> list[str]:
        """A server that stays where it was started, with the files that were changed."""
        found = [word for word in words if word != "--start"]
        if _FILE in self._files:
            found = [word for word in found if not word.startswith("--ts-config")]
            found.append(f"--ts-config={FILES}/{_FILE}")
        return ["--start", "--foreground", *found]

    def _properties(self, path: str, words: list[str]) -> dict[str, str]:
        """What a file says, with its paths as they are here; and a judgement of each key."""
        if not path:
            return {}
        values = dict(torchserve_settings.read(path).values)
        where = path.replace(f"{self._deployment.folder}/", "")
        kept: dict[str, str] = {}
        for name, value in values.items():
            if name not in KEYS:
                self._settings.append(Setting(_NAME, where, name, value, "no effect", _UNKNOWN))
                continue
            has_none = name in IGNORED
            why = IGNORED[name].about if has_none else ""
            self._named |= set(_PLACEHOLDER.findall(value))
            kept[name] = self._placed(name, value, words)
            self._settings.append(
                Setting(_NAME, where, name, value, "no effect" if has_none else "used", why)
            )
        if kept != values:
            comment = f"{where} as salver migrate has made it: paths of this machine, and known keys"
            self._files[_FILE] = java_properties.written(kept, [comment]).encode()
        return kept

    def _placed(self, name: str, value: str, words: Sequence[str]) -> str:
        """A path as it is here; any other value as it is."""
        if name not in _PLACES or not value or any(f"--{name.replace('_', '-')}" in word for word in words):
            return value
        from salver.migration.command_lines import Launch

        launch = self._started.launch if self._started else Launch(_NAME, ())
        beside = self._started.file if self._started else self._deployment.folder / _FILE
        here = self._deployment.meant(value, launch, beside)
        if here is None and name == "model_store" and (stores := _stores(self._deployment)):
            here = stores[0]
        if here is None and name != "workflow_store":
            self._lost.append(f"{name}={value} is nowhere in {self._deployment.folder}")
        return str(here) if here else value

    def _models(self, settings: "torchserve_settings.Settings") -> tuple[Model, ...]:
        store = settings.text("model_store")
        if not store:
            raise InvalidInput("no model store is given", fix="Say: --model-store FOLDER")
        judge = Judge(
            self._deployment.folder, self._backends, installs=settings.is_on("install_py_dep_per_model")
        )
        archives = self._deployment.archives.get(Path(store).resolve(), ())
        models = tuple(judge.model(path) for path in archives)
        self._settings += judge.settings
        return models

    def _remarks(self, problem: str) -> tuple[str, ...]:
        is_off = any(
            setting.name == "disable_token_authorization" and setting.value.strip().lower() == "true"
            for setting in self._settings
        )
        if is_off or problem:
            return ()
        return ("callers need tokens, which key_file.json has, as with TorchServe; or --disable-token-auth",)
