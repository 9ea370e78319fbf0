"""Models, versions and artefacts in a store.

Reads structure and, through ``Formats``, content; nothing is opened twice and no list is kept.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Final

import msgspec

from salver.backends.protocol import ArtifactKind
from salver.kernel.repository.config import RepositoryConfig
from salver.kernel.repository.fingerprint import Fingerprint
from salver.kernel.repository.names import (
    GENERIC_STEMS,
    is_padded_version,
    is_version,
    is_visible,
    model_name,
)
from salver.kernel.repository.ports import Formats
from salver.kernel.repository.settings import (
    MAX_CONFIG,
    TOML,
    Settings,
    identity,
    join,
    program_of,
    read_settings,
)
from salver.lazy import lazy_imports
from salver.stores import Entry, FileStore, Store, StoreFailed
from salver.words.artifacts import Manifest, ModelConfig, Versions
from salver.words.errors import SalverError
from salver.words.messages import ModelId, TensorSpec

with lazy_imports():
    from salver.kernel.repository import advice
    from salver.kernel.repository.toml import is_server_file
    from salver.stores import mlmodel


#: Backends whose versions usually have leading zeros (``00000123``).
_PADDING: Final = frozenset({"tensorflow", "litert"})
#: Folders beside the versions with other files.
_BESIDE: Final = frozenset({"configs", "initial_state", "warmup"})
_MAX_MLMODEL: Final = 1 << 20
#: Formats of what cannot run by itself; empty = not recognised.
_WITHOUT_PROGRAM: Final = ("", "torch-weights")
#: Ensembles have no artefact; a version's folder is empty or missing.
_ENSEMBLE: Final = ArtifactKind("ensemble", "ensemble")
#: Formats of other backends that a backend also runs if the configuration names it.
_READ_BY: Final = {"openvino": ("onnx",)}
_NO_TREELITE: Final = (
    "Treelite checkpoints are not served; put the XGBoost, LightGBM or scikit-learn model there that it was "
    "made of, and say so in model_type"
)


class Artifact(msgspec.Struct, frozen=True):
    """Artefact in a store.

    Attributes:
        code: Program that runs it, if the backend is one.
    """

    path: str
    kind: ArtifactKind
    code: Path | None = None


class Layout:
    """Reader of one store.

    Args:
        override_of: Returns a model's configuration from a load request, or nothing.
    """

    def __init__(
        self, store: Store, formats: Formats, override_of: Callable[[str], str], config: RepositoryConfig
    ) -> None:
        self._store = store
        self._config = config
        self._formats = formats
        self._override_of = override_of

    def read(self) -> Iterator[Manifest]:
        """Yield every version of every model.

        Raises:
            StoreFailed: the root cannot be read.
        """
        root = self._store.local_path("")
        entry = self._store.stat("")
        if entry is not None and not entry.is_folder:
            if isinstance(self._store, FileStore):  # its configuration may lie beside it
                beside = Layout(self._store.above(), self._formats, self._override_of, self._config)
                yield from self._at(root, [beside._file(root.name)])
            else:
                yield from self._at(root, [self._file("")])
            return
        entries = self._without_server_file(self._visible(""))
        is_configured = self._is_configured(entries)
        if not is_configured and (found := self._look("")):
            yield from self._at(root, [self._bare(found)])
            return
        if is_configured or any(e.is_folder and is_padded_version(e.name) for e in entries):
            yield from self._at(root, self._model("", root.resolve().name, entries))
            return
        found_below = [
            manifest
            for entry in entries
            for manifest in self._at(self._store.local_path(entry.name), self._child(entry))
        ]
        said = advice.of_folder(root, [entry.name for entry in entries])
        if said and all(manifest.format in _WITHOUT_PROGRAM for manifest in found_below):
            name = model_name(root.resolve().name)
            found_below = list(self._at(root, [_broken(ModelId(name, "1"), root, said)]))
        yield from found_below

    def one(self, name: str) -> Iterator[Manifest]:
        """Yield every version of the one model that the store holds."""
        yield from self._at(self._store.local_path(""), self._model("", name, self._visible("")))

    def of_base_path(self, name: str, only: Collection[str] = ()) -> Iterator[Manifest]:
        """Yield every version of the one model, from folders named by version only (TF-L1).

        Args:
            only: Names of the versions to read; empty = all.
        """
        entries = self._visible("")
        numbers = {e.name for e in entries if e.is_folder and is_padded_version(e.name)}
        if only:
            entries = tuple(e for e in entries if e.name not in numbers or e.name in only)
            numbers = {number for number in numbers if number in only}
        if numbers:
            yield from self._at(self._store.local_path(""), self._model("", name, entries))

    def _at(self, home: Path, manifests: Iterable[Manifest]) -> Iterator[Manifest]:
        for manifest in manifests:
            yield msgspec.structs.replace(manifest, home=home)

    def _child(self, entry: Entry) -> Iterator[Manifest]:
        """Yield the versions of an entry at the top of a repository of many models."""
        local = self._store.local_path(entry.name)
        try:
            below = self._visible(entry.name) if entry.is_folder else ()
            if not self._is_configured(below) and (found := self._look(entry.name)):
                yield self._bare(found)
            elif below:  # an empty folder is probably still being filled
                yield from self._model(entry.name, entry.name, below)
        except SalverError as error:
            name = entry.name
            if not entry.is_folder:
                name = _bare_name(local)
            yield _broken(ModelId(name, "1"), local, str(error))

    def _file(self, path: str) -> Manifest:
        """Return the model in a file that is the whole store, or a manifest with its problem."""
        local = self._store.local_path(path)
        id = ModelId(_bare_name(local), "1")
        try:
            if found := self._look(path):
                beside = None
                if path:
                    beside = self._own("", id.name)
                if beside is None or beside.config.filename not in ("", path):
                    return self._bare(found)
                return self._with_own(found, id, beside)
        except SalverError as error:
            return _broken(id, local, str(error))
        return _broken(id, local, advice.unrecognised_file(local))

    def _with_own(self, found: Artifact, id: ModelId, settings: Settings) -> Manifest:
        """Return the model in a file, with the configuration beside it."""
        local = self._store.local_path(found.path)
        if settings.problem:
            return _unreadable(id, local, settings)
        wanted = settings.config.backend
        fitting = _for(found, wanted)
        if fitting is None:
            return _broken(
                id, local, f"{local} is {found.kind.format}, which the {wanted} backend cannot run"
            )
        theirs = wanted
        if settings.own:
            theirs = settings.own.config.backend
        own = _for(found, theirs)
        return self._manifest(id, fitting, found.path, settings, own or "")

    def _model(self, folder: str, name: str, entries: tuple[Entry, ...]) -> Iterator[Manifest]:
        """Yield the versions of a folder of versions, or of one that holds the artefact itself."""
        settings = self._settings(folder, name)
        numbers = [e for e in entries if e.is_folder and is_padded_version(e.name)]
        if not numbers:
            yield self._version(folder, ModelId(name, "1"), settings)
            return
        numbers, twice = _unique_numbers(numbers)
        manifests: list[Manifest] = []
        skipped = [
            e.name for e in entries if e.is_folder and not is_padded_version(e.name) and e.name not in _BESIDE
        ]
        for entry in numbers:
            below = join(folder, entry.name)
            manifest = self._version(below, ModelId(name, entry.name), self._own(below, name) or settings)
            is_padding_fine = not settings.files and manifest.backend in _PADDING
            if is_version(entry.name) or is_padding_fine:
                manifests.append(manifest)
            else:
                skipped.append(entry.name)
        notices: tuple[str, ...] = ()
        if skipped:
            names = ", ".join(sorted(skipped)[:5]) + (", …" if len(skipped) > 5 else "")
            rule = "a version folder is a number without leading zero"
            notices = (f"skipped {names} in {self._store.local_path(folder)}: {rule}",)
        notices += tuple(f"{self._store.local_path(folder)}: skipped {words}" for words in twice)
        if not manifests:
            where = self._store.local_path(folder)
            yield _broken(ModelId(name, "1"), where, f"{where} has no version folder; {notices[0]}")
        for manifest in manifests:
            yield msgspec.structs.replace(manifest, notices=manifest.notices + notices)

    def _own(self, folder: str, name: str) -> Settings | None:
        """Return a version's own settings, which registered versions have; None = none."""
        if all(self._store.stat(join(folder, file)) is None for file in (TOML, *self._formats.configs)):
            return None
        return self._settings(folder, name)

    def _bare(self, found: Artifact) -> Manifest:
        """Return the version of an artefact without a folder; archives contain its number."""
        name, version = _bare_name(self._store.local_path(found.path)), "1"
        archive = self._formats.archives.get(found.kind.format)
        if archive is not None:
            name, version = archive.identify(self._store.local_path(found.path), name)
        settings = Settings()
        if self._override_of(name) or self._config.required_config:
            settings = self._settings(found.path, name)
        if settings.problem:
            return _unreadable(ModelId(name, version), self._store.local_path(found.path), settings)
        manifest = self._manifest(ModelId(name, version), found, found.path, settings, found)
        if archive is not None:  # archives of its other versions may be beside it
            config = msgspec.structs.replace(manifest.config, versions=Versions(all=True))
            return msgspec.structs.replace(manifest, config=config)
        return manifest

    def _version(self, folder: str, id: ModelId, settings: Settings) -> Manifest:
        """Return the version in a folder."""
        where = self._store.local_path(folder)
        if settings.problem:
            return _unreadable(id, where, settings)
        try:
            if settings.config.ensemble.steps:
                ensemble = Artifact(folder, _ENSEMBLE)
                return self._manifest(id, ensemble, folder, settings, ensemble)
            config, columns = self._completed(folder, settings.config)
            settings = msgspec.structs.replace(settings, config=config)
            found = self._artefact(folder, config)
            if isinstance(found, str):
                return _broken(id, where, found)
            own: Artifact | str = found
            if settings.own is not None:
                own = self._artefact(folder, self._completed(folder, settings.own.config)[0])
            manifest = self._manifest(id, found, folder, settings, own)
            if columns:
                return msgspec.structs.replace(manifest, columns=columns)
            return manifest
        except SalverError as error:
            return _broken(id, where, str(error))

    def _completed(self, folder: str, config: ModelConfig) -> tuple[ModelConfig, tuple[TensorSpec, ...]]:
        """Complete the configuration from MLflow's file: the artefact, unless configured, and columns."""
        if config.filename or self._store.stat(join(folder, mlmodel.MLMODEL)) is None:
            return config, ()
        file, columns = self._mlflow(folder)
        return msgspec.structs.replace(config, filename=file), columns

    def _mlflow(self, folder: str) -> tuple[str, tuple[TensorSpec, ...]]:
        """Return the artefact's path in an MLflow folder, empty = not given, and its columns.

        Raises:
            SalverError: no backend runs such a model.
        """

        def is_there(path: str) -> bool:
            return self._store.stat(join(folder, path)) is not None

        content = self._store.read(join(folder, mlmodel.MLMODEL), _MAX_MLMODEL)
        where = str(self._store.local_path(join(folder, mlmodel.MLMODEL)))
        # in a registry the artefact is beside the file, without MLflow's folders
        said = mlmodel.parse_mlmodel(
            content, where, lambda path: is_there(path) or is_there(PurePath(path).name)
        )
        path = PurePath(said.artefact).name
        if is_there(said.artefact):
            path = said.artefact
        entry = self._store.stat(join(folder, path))
        if entry is None or not entry.is_folder or self._look(join(folder, path)) is not None:
            return path, said.columns
        inner = [e.name for e in self._visible(join(folder, path)) if PurePath(e.name).stem == "model"]
        return (f"{path}/{inner[0]}" if len(inner) == 1 else path), said.columns

    def _artefact(self, folder: str, config: ModelConfig) -> Artifact | str:
        """Return the artefact of a version, or why there is none."""
        where = self._store.local_path(folder)
        if code := program_of(config.backend, self._config):
            what = self._formats.recognise(code)
            if what:
                return Artifact(folder, what, code)
            return f"{code} defines no class TritonPythonModel"
        if config.filename:
            path = join(folder, config.filename)
            if self._store.stat(path) is None:
                return f"{where} has no {config.filename!r}, which the configuration names as its file"
            candidates = [found] if (found := self._look(path)) else []
        elif first := self._first(folder):
            candidates = [first]
        elif (whole := self._look(folder)) and _for(whole, config.backend):
            candidates = [whole]
        else:
            paths = [join(folder, e.name) for e in self._visible(folder)]
            inside = [found for path in paths if (found := self._look(path))]
            is_inside = whole is None or any(_for(found, config.backend) for found in inside)
            candidates = inside
            if whole and not is_inside:
                candidates = [whole]
        if config.backend:
            fitting = [found for c in candidates if (found := _for(c, config.backend))]
            if candidates and not fitting:
                seen = ", ".join(f"{PurePath(c.path).name} ({c.kind.format})" for c in candidates[:5])
                return f"{where} has no artefact for the configured backend {config.backend}, only {seen}"
            candidates = fitting
        if len(candidates) > 1:
            named = [c for c in candidates if PurePath(c.path).stem in GENERIC_STEMS]
            if len(named) == 1:
                candidates = named
        if len(candidates) > 1:
            seen = ", ".join(PurePath(c.path).name for c in candidates[:5])
            return f'{where} holds several artefacts ({seen}); name one in {TOML}: filename = "…"'
        is_weights = bool(candidates) and candidates[0].kind.format in _WITHOUT_PROGRAM
        if is_weights and "module" not in config.options:
            names = [entry.name for entry in self._visible(folder)]
            if said := advice.of_folder(where, names):
                return said
        if candidates:
            return candidates[0]
        return self._nothing(folder, config)

    def _first(self, folder: str) -> Artifact | None:
        """Return the artefact with the operator's preferred name, if there is one."""
        path = join(folder, self._config.first_filename)
        if self._config.first_filename and self._store.stat(path):
            return self._look(path)
        return None

    def _nothing(self, folder: str, config: ModelConfig) -> str:
        where = self._store.local_path(folder)
        if config.options.get("model_type") == "treelite_checkpoint":
            return f"{where}: {_NO_TREELITE}"
        return advice.unrecognised_folder(where, [e.name for e in self._visible(folder)])

    def _manifest(
        self, id: ModelId, found: Artifact, folder: str, settings: Settings, own: Artifact | str
    ) -> Manifest:
        """Return the version of an artefact; ``own`` is the one named in the model's own configuration."""
        files = self._measure(folder, id, settings)
        if found.code is not None:
            files.add_text(f"{found.code} {found.code.stat().st_mtime_ns}")
        path = self._store.local_path(found.path)
        entry = self._store.stat(found.path)
        # resolve links now: one that is switched during loading would mix two versions
        path = path.resolve() if entry is not None and entry.is_folder else path.parent.resolve() / path.name
        manifest = Manifest(
            id=id,
            path=path,
            format=found.kind.format,
            backend=found.kind.backend,
            config=self._with_rows(settings, found.kind.backend),
            fingerprint=files.digest(),
            body=self._body(folder, path, settings),
            bytes=files.bytes,
            notices=settings.foreign.notices if settings.foreign else (),
            foreign_config=settings.foreign.source if settings.foreign else b"",
            code=found.code,
            brought="config" if own != found or _has_other_options(settings) else "",
        )
        archive = self._formats.archives.get(manifest.format)
        if archive is None:
            return manifest
        return archive.complete(manifest)

    def _with_rows(self, settings: Settings, backend: str) -> ModelConfig:
        """Return the configuration, with the operator's batch size unless the owner set one."""
        rows = self._config.rows_of(backend)
        if not rows or not settings.leaves_rows():
            return settings.config
        batching = msgspec.structs.replace(settings.config.batching, max_rows=rows)
        return msgspec.structs.replace(settings.config, batching=batching)

    def _measure(self, folder: str, id: ModelId, settings: Settings) -> Fingerprint:
        files = Fingerprint(self._store)
        files.add(folder)
        size = files.bytes
        for file in settings.files:
            files.add(file)
        files.bytes = size
        files.add_text(self._override_of(id.name))
        return files

    def _body(self, folder: str, path: Path, settings: Settings) -> str:
        """Return a digest of the version without its number of instances and its siblings (TR-L4)."""
        files = Fingerprint(self._store)
        files.add(folder)
        for file in settings.files:
            if PurePath(file).name not in (TOML, *self._formats.configs):
                files.add(file)
        files.add_text(str(path))
        files.add_text(identity(settings))
        return files.digest()

    def _without_server_file(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Return the entries, without a ``salver.toml`` that configures only the server."""
        if not isinstance(self._store, FileStore) or all(entry.name != TOML for entry in entries):
            return entries
        if not is_server_file(self._store.read(TOML, MAX_CONFIG)):
            return entries
        return tuple(entry for entry in entries if entry.name != TOML)

    def _is_configured(self, entries: Iterable[Entry]) -> bool:
        """Return whether a folder with these entries is a model's, even if it is also an artefact."""
        return any(
            entry.name in (TOML, mlmodel.MLMODEL) or entry.name in self._formats.configs for entry in entries
        )

    def _settings(self, folder: str, name: str) -> Settings:
        return read_settings(self._store, folder, name, self._formats, self._override_of(name), self._config)

    def _look(self, path: str) -> Artifact | None:
        local = self._store.local_path(path)
        try:
            what = self._formats.recognise(local)
        except OSError as error:
            raise StoreFailed(f"{local} cannot be read: {error.strerror or error}") from error
        if what:
            return Artifact(path, what)
        return None

    def _visible(self, folder: str) -> tuple[Entry, ...]:
        return tuple(e for e in self._store.entries(folder) if is_visible(e.name))


def _unique_numbers(numbers: Iterable[Entry]) -> tuple[list[Entry], list[str]]:
    """Return one folder for each number, and notices: ``7`` and ``007`` are the same version (TF-L1)."""
    kept: dict[int, Entry] = {}
    twice = []
    for entry in sorted(numbers, key=lambda entry: (-len(entry.name), entry.name)):
        number = int(entry.name)
        if number in kept:
            twice.append(f"{kept[number].name}, since {entry.name} is the same version")
        kept[number] = entry
    return [kept[number] for number in sorted(kept)], twice


def _has_other_options(settings: Settings) -> bool:
    """Return whether a request changes the options that the model's files set."""
    own = settings.own
    if own is None:
        return False
    is_same = own.config.options == settings.config.options
    return not is_same or _parameters(own) != _parameters(settings)


def _parameters(settings: Settings) -> Mapping[str, str]:
    if settings.foreign:
        return settings.foreign.parameters
    return {}


def _for(found: Artifact, backend: str) -> Artifact | None:
    """Return the artefact for the owner's backend, empty = any; None if that backend cannot run it."""
    if backend in ("", found.kind.backend):
        return found
    if found.kind.format in _READ_BY.get(backend, ()):
        return Artifact(found.path, ArtifactKind(backend, found.kind.format))
    return None


def _bare_name(path: Path) -> str:
    """Return a name from the file's stem, or from its folder if the stem is generic."""
    path = path.resolve() if path.name in ("", "..") else path.absolute()
    if path.stem not in GENERIC_STEMS and not is_version(path.stem):
        return model_name(path.stem)
    folder = path.parent
    if is_padded_version(folder.name):
        folder = folder.parent
    return model_name(folder.name)


def _broken(id: ModelId, path: Path, problem: str) -> Manifest:
    return Manifest(id=id, path=path, format="", backend="", problem=problem)


def _unreadable(id: ModelId, path: Path, settings: Settings) -> Manifest:
    broken = _broken(id, path, settings.problem)
    return msgspec.structs.replace(broken, is_unreadable=settings.is_unreadable)
