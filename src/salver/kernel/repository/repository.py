"""Versions of all models below some paths, read by each scan.

Between scans it keeps only what distinguishes a finished change from one in progress. It loads nothing.
"""

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from salver.kernel.repository.config import RepositoryConfig
from salver.kernel.repository.layout import Layout
from salver.kernel.repository.named_models import NamedModel, NamedModelDefaults, configured
from salver.kernel.repository.names import namespaces, with_namespaces
from salver.kernel.repository.ports import Formats
from salver.kernel.repository.settle import ChangeFilter
from salver.lazy import lazy_imports
from salver.stores import DistantStore, FileStore, Store, StoreFailed
from salver.words.artifacts import Batching, LoadOrder, Manifest
from salver.words.errors import InvalidInput, NotFound, SalverError
from salver.words.messages import ModelId

with lazy_imports():
    from salver.kernel.repository import advice, uploads
    from salver.kernel.repository.uploads import Upload, bring, check_name


_DEFAULTS: Final = RepositoryConfig()
_NAMED_DEFAULTS: Final = NamedModelDefaults()
_LOG = logging.getLogger("salver.repository")
#: By the part that a request brought: text for a refused model, and the remedy.
_REFUSED: Final = {
    "files": ("came with the request and is", "put the model into the repository"),
    "path": (
        "lies in a base path that a request named and is",
        "name its base path on the command line or in --model_config_file",
    ),
    "config": (
        "is given another file, backend or parameters by the request's configuration and is",
        "change the configuration in the repository",
    ),
}
#: Looks in a row that only compare what the last full scan has seen.
_MOST_REPEATS: Final = 9
_MOST_ENTRIES: Final = 20_000
_MOST_PARAMETERS: Final = 4 << 20


def _file_store(path: Path | str) -> Store:
    return FileStore(Path(path))


class _NamedModels:
    """Models that :meth:`Repository.place` names, with their stores.

    Attributes:
        moved: Models with another path since the last scan.
    """

    def __init__(self, open_store: Callable[[Path | str], Store]) -> None:
        self.moved: set[str] = set()
        self._open_store = open_store
        self._stores: dict[str, tuple[NamedModel, Store]] = {}
        self._found: dict[tuple[str, str], tuple[Manifest, ...]] = {}  # the last versions, by name and path

    def all(self) -> list[tuple[NamedModel, Store]]:
        """Return the models and their stores."""
        return list(self._stores.values())

    def get(self, name: str) -> NamedModel | None:
        """Return the model of a name."""
        if name in self._stores:
            return self._stores[name][0]
        return None

    def replace(self, models: Sequence[NamedModel]) -> None:
        """Replace the models; if a path cannot be opened, nothing changes."""
        stores = {model.path: store for model, store in self._stores.values()}
        fresh = {m.path: self._open_store(m.path) for m in models if m.path not in stores}
        after = {m.name: (m, stores.get(m.path) or fresh[m.path]) for m in models}
        for name in self._stores.keys() | after.keys():
            pair = [named.get(name) for named in (self._stores, after)]
            marks = [named and (named[0].path, named[0].is_requested, named[0].only) for named in pair]
            if marks[0] != marks[1]:
                self.moved.add(name)
        self._stores = after
        current = {(model.name, model.path) for model in models}
        self._found = {pair: found for pair, found in self._found.items() if pair in current}

    def before(self, model: NamedModel) -> tuple[Manifest, ...]:
        """Return the versions that were found last."""
        return self._found.get((model.name, model.path), ())

    def keep(self, model: NamedModel, found: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
        """Add the listed versions whose files are gone; they stay until they leave the list."""
        gone = model.only - {manifest.id.version for manifest in found}
        kept = *found, *(manifest for manifest in self.before(model) if manifest.id.version in gone)
        self._found[model.name, model.path] = kept
        return kept


class Repository:
    """Models below some paths.

    Args:
        paths: Model files, folders that are artefacts, folders of versions, repositories of many.
        formats: Readers of artefacts and configurations.
        open_store: Opens one path.
        named_defaults: Settings of the models that :meth:`place` names.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        formats: Formats,
        config: RepositoryConfig = _DEFAULTS,
        open_store: Callable[[Path | str], Store] = _file_store,
        named_defaults: NamedModelDefaults = _NAMED_DEFAULTS,
    ) -> None:
        self._paths = tuple(paths)
        for path in paths:
            if ":" in str(path):
                advice.check_place(str(path))
        self._stores = tuple(open_store(path) for path in paths)
        self._named_defaults = named_defaults
        self._named = _NamedModels(open_store)
        self._spaces = namespaces([str(path) for path in paths])
        self._formats = formats
        self._config = config
        if config.name:
            check_name(config.name.replace("/", ""))  # names in OpenAI's API may contain slashes
        self._refuses_nothing = config.refuses_nothing  # until the first scan is over
        self._changes = ChangeFilter(config.settle_s)
        self._before: dict[Path | str, tuple[Manifest, ...]] = {}  # last content of distant stores
        self._unreachable: set[str] = set()  # error texts that were logged
        self._last: tuple[Manifest, ...] | None = None  # the last scan's, if another may return the same
        self._repeats = 0  # scans that returned it
        #: Uploads by load requests, by model.
        self.overrides: dict[str, Upload] = {}

    def __repr__(self) -> str:
        return f"<Repository {', '.join(map(str, self._paths))}>"

    @property
    def is_settling(self) -> bool:
        """Whether the last scan saw a change that has not settled: scan again soon."""
        return self._changes.is_waiting

    def bring(self, name: str, order: LoadOrder) -> Upload:
        """Return the upload of a load request, for :attr:`overrides`. Blocking.

        Raises:
            InvalidInput, TooLarge, LoadFailed, Unsupported: see
                :func:`~salver.kernel.repository.uploads.bring`.
        """
        if order.folder:
            return self._formats.open_folder(name, order.folder)
        held = sum(brought.bytes for brought in list(self.overrides.values()))
        return bring(name, order, uploads.MOST_BYTES - held)

    def place(self, models: Sequence[NamedModel]) -> None:
        """Replace the named models, from the next scan on.

        Raises:
            InvalidInput, MissingExtra: a path cannot be opened; nothing has changed.
        """
        self._named.replace(models)
        self._last = None

    def scan(self, now: float, at_once: frozenset[str] = frozenset()) -> tuple[Manifest, ...]:
        """Return every version, sorted. Blocking.

        Args:
            now: Monotonic seconds.
            at_once: Models named by a request, whose changes count at once.

        Raises:
            NotFound: a path does not exist.
            StoreFailed: a path cannot be read.
            InvalidInput: a name was given, and there is more than one model.
        """
        if not at_once and self._last is not None and self._is_unchanged():
            self._repeats += 1
            return self._last
        self._last, self._repeats = None, 0
        for each in self._all_stores():
            if isinstance(each, FileStore):
                each.seen = {}
        everything: list[tuple[str, Manifest]] = []
        errors: list[SalverError] = []
        requested = {name.rpartition("::")[2] for name in at_once}
        for path, store in zip(self._paths, self._stores, strict=True):
            try:
                read = self._read(path, store)
            except StoreFailed as error:
                before = self._before.get(path)
                if before is None or requested & {manifest.id.name for manifest in before}:
                    raise
                errors.append(
                    StoreFailed(f"{error}; the models that were found there before stay as they are")
                )
                read = before
            everything += [(str(path), manifest) for manifest in read]
        self._refuses_nothing = False
        moved = frozenset(self._named.moved)
        for model, store in self._named.all():
            everything += [(model.path, manifest) for manifest in self._read_named(model, store, errors)]
        if errors and requested - {manifest.id.name for _, manifest in everything}:
            raise errors[0]
        self._log_new(errors)
        found: dict[ModelId, Manifest] = {}
        homes: dict[tuple[str, str], dict[Path, None]] = {}
        spaces = self._spaces if self._config.has_namespaces else {}
        for manifest in with_namespaces(everything, spaces):
            found[manifest.id] = manifest
            homes.setdefault(self._owner(manifest), {})[manifest.home] = None
        for id, manifest in found.items():
            if len(where := {**homes[self._owner(manifest)], **homes.get((id.name, ""), {})}) > 1:
                found[id] = _clashing(manifest, where)
        settled = self._replaced(self._changes.take(self._renamed(found), now, at_once | moved))
        self._named.moved -= moved
        result = tuple(self._configured([self._admitted(settled[id]) for id in sorted(settled)]))
        if not errors and not self.overrides and not self.is_settling:
            self._last = result
        return result

    async def rest(self, seconds: float) -> None:
        """Wait for so long, and on while a scan would find what the last one found.

        A thread looks at the files meanwhile, since a change of threads costs more than a look.
        """
        is_over = threading.Event()
        try:
            await asyncio.to_thread(self._rest, seconds, is_over)
        finally:
            is_over.set()

    def _rest(self, seconds: float, is_over: threading.Event) -> None:
        with suppress(RuntimeError):  # models are being placed: their list has changed
            while not is_over.wait(seconds) and self._last is not None and self._is_unchanged():
                self._repeats += 1

    def _all_stores(self) -> Iterator[Store]:
        yield from self._stores
        for _, store in self._named.all():
            yield store

    def _is_unchanged(self) -> bool:
        """Return whether another scan would find what the last one found.

        What backends read of an artefact by themselves, such as deep inside a folder that is no model yet, is
        not remembered: therefore a full scan follows now and then.
        """
        return (
            self._repeats < _MOST_REPEATS
            and not self.overrides
            and not self._named.moved
            and all(isinstance(store, FileStore) and store.is_unchanged() for store in self._all_stores())
        )

    def _configured(self, found: Sequence[Manifest]) -> Iterator[Manifest]:
        """Yield versions with the settings of named models, which take effect at once."""
        for name, group in itertools.groupby(found, lambda manifest: manifest.id.name):
            if model := self._named.get(name):
                yield from configured(group, model, self._named_defaults)
            else:
                yield from group

    def _read_named(self, model: NamedModel, store: Store, errors: list[SalverError]) -> tuple[Manifest, ...]:
        """Return the versions of a named model; if they cannot be read, the ones found before."""
        try:
            if isinstance(store, DistantStore):
                store.refresh()
            if (entry := store.stat("")) is None or not entry.is_folder:
                raise NotFound(f"Could not find base path {model.path} for servable {model.name}")
            layout = self._layout(store, lambda name: self._override_of(name, model.path))
            found = tuple(layout.of_base_path(model.name, model.only))
            if not found:
                raise NotFound(
                    f"No versions of servable {model.name} found under base path {model.path}. Did you "
                    "forget to name your leaf directory as a number (eg. '/1/')?"
                )
        except NotFound as error:
            errors.append(error)
            return self._named.keep(model, ())
        except SalverError as error:
            errors.append(error)
            return self._named.before(model)
        if isinstance(store, DistantStore):
            found = tuple(_with_addresses(manifest, store.told) for manifest in found)
        if model.is_requested:
            found = tuple(msgspec.structs.replace(m, brought="path") for m in found)
        if self._named_defaults.has_own_batching:
            found = tuple(self._with_batching(manifest, store) for manifest in found)
        return self._named.keep(model, found)

    def _with_batching(self, manifest: Manifest, store: Store) -> Manifest:
        """Return a version with the batching in its own file, unless its configuration has some."""
        if manifest.config.batching != Batching():
            return manifest
        for file, read in self._formats.batching.items():
            path = f"{manifest.id.version}/{file}"
            if store.stat(path) is None:
                continue
            try:
                batching = read(store.read(path, _MOST_PARAMETERS), path)
            except (InvalidInput, StoreFailed) as error:
                return msgspec.structs.replace(manifest, problem=str(error))
            config = msgspec.structs.replace(manifest.config, batching=batching)
            return msgspec.structs.replace(manifest, config=config)
        return manifest

    def _read(self, path: Path | str, store: Store) -> tuple[Manifest, ...]:
        """Return the versions below one path."""
        if isinstance(store, DistantStore):
            store.refresh()
        if store.stat("") is None:
            raise NotFound(f"{path} does not exist", fix=advice.missing(str(path)))
        layout = self._layout(store, lambda name: self._override_of(name, str(path)))
        found = tuple(layout.read())
        if not found and self._refuses_nothing:
            names = [entry.name for entry in store.entries("")]
            text = advice.unrecognised_folder(store.local_path(""), names)
            if isinstance(store, DistantStore):
                text = store.told(text)
            fix = ""
            if not names:
                fix = "A server without models, for now, needs --control explicit."
            raise NotFound(text, fix=fix)
        if isinstance(store, DistantStore):
            found = self._before[path] = tuple(_with_addresses(manifest, store.told) for manifest in found)
        return found

    def _layout(self, store: Store, override_of: Callable[[str], str]) -> Layout:
        return Layout(store, self._formats, override_of, self._config)

    def _owner(self, manifest: Manifest) -> tuple[str, str]:
        """Return the key that must be unique among paths: a model, or a version that is an archive."""
        return manifest.id.name, manifest.id.version if manifest.format in self._formats.archives else ""

    def _log_new(self, errors: Sequence[SalverError]) -> None:
        """Log the errors that the previous scan did not have."""
        texts = {str(error) for error in errors}
        for text in sorted(texts - self._unreachable):
            _LOG.error("%s", text)
        self._unreachable = texts

    def _override_of(self, name: str, path: str) -> str:
        full = f"{self._spaces.get(path, '')}::{name}"
        brought = self.overrides.get(self._config.name or name) or self.overrides.get(full)
        if brought:
            return brought.config
        return ""

    def _replaced(self, found: dict[ModelId, Manifest]) -> dict[ModelId, Manifest]:
        """Return the versions with uploaded files in place of the models' own."""
        for name, brought in list(self.overrides.items()):
            if brought.folder is not None:
                layout = self._layout(FileStore(brought.folder), lambda _, b=brought: b.config)  # type: ignore[misc]
                found = {id: m for id, m in found.items() if id.name != name}
                found |= {m.id: _marked(m, brought) for m in layout.one(name)}
                for member, folder in brought.members.items():
                    found |= self._member(found, name, member, folder, brought)
        return found

    def _member(
        self, found: dict[ModelId, Manifest], name: str, member: str, folder: Path, brought: Upload
    ) -> dict[ModelId, Manifest]:
        """Return a model that was uploaded with another, by its own name, which must be free."""
        if any(id.name == member for id in found):
            problem = f"its member '{member}' has the name of another model; rename one of them"
            return {
                id: msgspec.structs.replace(m, problem=problem) for id, m in found.items() if id.name == name
            }
        layout = self._layout(FileStore(folder), lambda _: "")
        return {m.id: _marked(m, brought) for m in layout.one(member)}

    def _admitted(self, manifest: Manifest) -> Manifest:
        """Refuse an upload that can touch the machine; models in the repository may be of any format."""
        brought, is_ensemble = manifest.brought, manifest.backend == "ensemble"
        if not brought or manifest.problem or self._config.trusts_code or is_ensemble:
            return manifest
        has_environment = bool(manifest.config.environment.path)
        if has_environment or self._formats.touches_machine(manifest.backend, manifest.format):
            return msgspec.structs.replace(manifest, problem=_refusal(manifest))
        link = None
        if brought != "config":
            link = _leads_out(manifest.home)
        if link is None:
            return manifest
        problem = f"model '{manifest.id.name}' came by request, and {link} leads out of its folder"
        return msgspec.structs.replace(manifest, problem=problem)

    def _renamed(self, found: dict[ModelId, Manifest]) -> dict[ModelId, Manifest]:
        name, names = self._config.name, sorted({id.name for id in found})
        if not name or not names:
            return found
        if len(names) > 1:
            raise InvalidInput(
                f"the name {name!r} is for one model, not for {len(names)}: {', '.join(names[:5])}",
                fix="Leave the name out, or give the path of one model",
            )
        renamed = (msgspec.structs.replace(m, id=ModelId(name, id.version)) for id, m in found.items())
        return {m.id: m for m in renamed}


def _refusal(manifest: Manifest) -> str:
    """Return why an upload is refused, and the remedy."""
    what, instead = _REFUSED[manifest.brought]
    kind = manifest.format
    if manifest.config.environment.path:
        kind += " with a Python environment of its own"
    trust = "--trust-pickle"
    if manifest.brought == "path":
        trust = "--trust_pickle"
    return (
        f"model '{manifest.id.name}' {what} {kind} (backend {manifest.backend}). Loading or "
        "running that can read and write files, use the network, run code or end the process. If you trust "
        f"all who can send such requests, start with {trust}; else {instead}"
    )


def _marked(manifest: Manifest, brought: Upload) -> Manifest:
    """Return a version marked as uploaded, unless the platform chose it."""
    return msgspec.structs.replace(manifest, brought="" if brought.is_trusted else "files")


def _leads_out(home: Path) -> Path | None:
    """Return a link in a folder that leads out of it; the folder's own path may contain links."""
    root, entries = home.resolve(), 0
    for folder, folders, files in os.walk(home):
        for name in (*folders, *files):
            entries += 1
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                return path
        if entries > _MOST_ENTRIES:
            return Path(folder)
    return None


def _with_addresses(manifest: Manifest, told: Callable[[str], str]) -> Manifest:
    """Return a version whose texts name the store's addresses instead of paths of its copy."""
    notices = tuple(told(notice) for notice in manifest.notices)
    return msgspec.structs.replace(manifest, problem=told(manifest.problem), notices=notices)


def _clashing(manifest: Manifest, where: Iterable[Path]) -> Manifest:
    places = " and ".join(str(place) for place in where)
    problem = f"the model name {manifest.id.name!r} is used more than once: in {places}; rename one of them"
    return msgspec.structs.replace(manifest, problem=problem)
