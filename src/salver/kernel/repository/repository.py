"""Which versions exist, and are they whole?

Gives the whole list each time, from all paths; keeps nothing but what it needs to tell a finished
change from one under way. It loads nothing and knows no framework.
"""

import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.dialects.tensorflow import tf_text
from salver.dialects.tensorflow.batching_parameters import FILE, batching_of
from salver.dialects.tensorflow.model_list import Customs, Place, overlaid
from salver.kernel.repository import advice
from salver.kernel.repository.archive import open_archive
from salver.kernel.repository.config import RepositoryConfig
from salver.kernel.repository.layout import Layout
from salver.kernel.repository.ports import Recognise, Touches
from salver.kernel.repository.settle import Settling
from salver.kernel.repository.uploads import MOST_BYTES, Brought, bring
from salver.stores import DistantStore, FileStore, Store, StoreFailed
from salver.words.artifacts import Batching, LoadOrder, Manifest
from salver.words.errors import InvalidInput, NotFound, SalverError
from salver.words.handlers import FORMAT
from salver.words.messages import ModelId

_USUAL: Final = RepositoryConfig()
_NO_CUSTOMS: Final = Customs()
_LOG = logging.getLogger("salver.kernel.repository")
#: Of a model that is refused: what a request brought of it, and what to do instead.
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
_MOST_ENTRIES: Final = 20_000


def _file_store(path: Path | str) -> Store:
    return FileStore(Path(path))


def _unknown(backend: str, form: str) -> bool:
    return True


class Repository:
    """The models below some paths.

    Args:
        paths: Model files, folders that are artefacts, folders of versions, repositories of many.
        recognise: Tells formats apart.
        open_store: Opens one path.
        customs: For the models that :meth:`place` names.
        touches: Tells which formats requests may bring; without it none.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        recognise: Recognise,
        config: RepositoryConfig = _USUAL,
        open_store: Callable[[Path | str], Store] = _file_store,
        customs: Customs = _NO_CUSTOMS,
        touches: Touches = _unknown,
    ) -> None:
        self._paths = tuple(paths)
        self._open_store = open_store
        for path in paths:
            advice.check_place(str(path))
        self._stores = tuple(open_store(path) for path in paths)
        self._customs = customs
        self._places: dict[str, tuple[Place, Store]] = {}  # by the model's name
        self._moved: set[str] = set()  # models whose place is another since the last scan
        self._spaces = namespaces([str(path) for path in paths])
        self._recognise = recognise
        self._config = config
        self._refuses_nothing = config.refuses_nothing  # until the first scan is over
        self._touches = touches
        self._settling = Settling(config.settle_s)
        self._before: dict[Path | str, tuple[Manifest, ...]] = {}  # what was last found in distant stores
        self._found: dict[tuple[str, str], tuple[Manifest, ...]] = {}  # by name and path, what places had
        self._away: set[str] = set()
        #: What load requests brought, by model.
        self.overrides: dict[str, Brought] = {}

    def __repr__(self) -> str:
        return f"<Repository {', '.join(map(str, self._paths))}>"

    @property
    def is_settling(self) -> bool:
        """True when the last scan saw a change that it did not take yet: look again soon."""
        return self._settling.is_waiting

    def bring(self, name: str, order: LoadOrder) -> Brought:
        """What a request brings for a model, for :attr:`overrides`. Blocking.

        Raises:
            InvalidInput, TooLarge, LoadFailed: see :func:`~salver.kernel.repository.uploads.bring`.
        """
        if order.folder:
            return open_archive(name, order.folder)
        held = sum(brought.bytes for brought in list(self.overrides.values()))
        return bring(name, order, MOST_BYTES - held)

    def place(self, places: Sequence[Place]) -> None:
        """From the next scan on there are these models by name, and no others that were named before.

        Raises:
            InvalidInput, MissingExtra: a path cannot be opened; nothing has changed.
        """
        stores = {place.path: store for place, store in self._places.values()}
        fresh = {p.path: self._open_store(p.path) for p in places if p.path not in stores}
        after = {p.name: (p, stores.get(p.path) or fresh[p.path]) for p in places}
        for name in self._places.keys() | after.keys():
            pair = [of[name][0] if name in of else None for of in (self._places, after)]
            marks = [place and (place.path, place.is_asked, place.only) for place in pair]
            if marks[0] != marks[1]:
                self._moved.add(name)
        self._places = after
        kept = {(place.name, place.path) for place in places}
        self._found = {pair: found for pair, found in self._found.items() if pair in kept}

    def scan(self, now: float, at_once: frozenset[str] = frozenset()) -> tuple[Manifest, ...]:
        """Every version there is, sorted. Blocking.

        Args:
            now: Monotonic seconds.
            at_once: Models whose changes count at once, because somebody asked for them.

        Raises:
            NotFound: a path does not exist.
            StoreFailed: a path cannot be read.
            InvalidInput: a name was given, and there is more than one model.
        """
        everything: list[tuple[str, Manifest]] = []
        away: list[SalverError] = []
        asked = {name.rpartition("::")[2] for name in at_once}
        for path, store in zip(self._paths, self._stores, strict=True):
            try:
                read = self._read(path, store)
            except StoreFailed as error:
                before = self._before.get(path)
                if before is None or asked & {manifest.id.name for manifest in before}:
                    raise
                kept = f"{error}; the models that were found there before stay as they are"
                away.append(StoreFailed(kept))
                read = before
            everything += [(str(path), manifest) for manifest in read]
        self._refuses_nothing = False
        moved = frozenset(self._moved)
        for place, store in list(self._places.values()):
            everything += [(place.path, manifest) for manifest in self._read_place(place, store, away)]
        if away and asked - {manifest.id.name for _, manifest in everything}:
            raise away[0]
        self._tell(away)
        found: dict[ModelId, Manifest] = {}
        homes: dict[tuple[str, str], dict[Path, None]] = {}
        spaces = self._spaces if self._config.has_namespaces else {}
        for manifest in _spaced(everything, spaces):
            found[manifest.id] = manifest
            homes.setdefault(_whose(manifest), {})[manifest.home] = None
        for id, manifest in found.items():
            if len(where := {**homes[_whose(manifest)], **homes.get((id.name, ""), {})}) > 1:
                found[id] = _clashing(manifest, where)
        settled = self._replaced(self._settling.take(self._renamed(found), now, at_once | moved))
        self._moved -= moved
        return tuple(self._overlaid([self._admitted(settled[id]) for id in sorted(settled)]))

    def _overlaid(self, found: Sequence[Manifest]) -> Iterator[Manifest]:
        """With what is told of the models from outside, which counts at once."""
        for name, group in itertools.groupby(found, lambda manifest: manifest.id.name):
            if name in self._places:
                yield from overlaid(group, self._places[name][0], self._customs)
            else:
                yield from group

    def _read_place(self, place: Place, store: Store, away: list[SalverError]) -> tuple[Manifest, ...]:
        """The versions of one model by name; what cannot be read stays as it was, and harms no other."""
        try:
            if isinstance(store, DistantStore):
                store.refresh()
            if (entry := store.stat("")) is None or not entry.is_folder:
                raise NotFound(f"Could not find base path {place.path} for servable {place.name}")
            layout = self._layout(store, lambda name: self._override_of(name, place.path))
            found = tuple(layout.of_base_path(place.name, place.only))
            if not found:
                raise NotFound(
                    f"No versions of servable {place.name} found under base path {place.path}. Did you "
                    "forget to name your leaf directory as a number (eg. '/1/')?"
                )
        except NotFound as error:
            away.append(error)
            return self._keep(place, ())
        except SalverError as error:
            away.append(error)
            return self._found.get((place.name, place.path), ())
        if isinstance(store, DistantStore):
            found = tuple(_told(manifest, store.told) for manifest in found)
        if place.is_asked:
            found = tuple(msgspec.structs.replace(m, brought="path") for m in found)
        if self._customs.has_own_batching:
            found = tuple(_with_batching(manifest, store) for manifest in found)
        return self._keep(place, found)

    def _keep(self, place: Place, found: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
        """These, and what a list names whose files are gone: it stays until it leaves the list."""
        gone = place.only - {manifest.id.version for manifest in found}
        before = self._found.get((place.name, place.path), ())
        kept = *found, *(manifest for manifest in before if manifest.id.version in gone)
        self._found[place.name, place.path] = kept
        return kept

    def _read(self, path: Path | str, store: Store) -> tuple[Manifest, ...]:
        """What lies below one path now."""
        if isinstance(store, DistantStore):
            store.refresh()
        if store.stat("") is None:
            raise NotFound(f"{path} does not exist", fix=advice.missing(str(path)))
        layout = self._layout(store, lambda name: self._override_of(name, str(path)))
        found = tuple(layout.read())
        if not found and self._refuses_nothing:
            names = [entry.name for entry in store.entries("")]
            text = advice.unrecognised_folder(store.local_path(""), names)
            text = store.told(text) if isinstance(store, DistantStore) else text
            fix = "" if names else "A server without models, for now, needs --control explicit."
            raise NotFound(text, fix=fix)
        if isinstance(store, DistantStore):
            found = self._before[path] = tuple(_told(manifest, store.told) for manifest in found)
        return found

    def _layout(self, store: Store, override_of: Callable[[str], str]) -> Layout:
        return Layout(store, self._recognise, override_of, self._config)

    def _tell(self, away: Sequence[SalverError]) -> None:
        """The log has which places cannot be read, once."""
        told = {str(error) for error in away}
        for text in sorted(told - self._away):
            _LOG.error("%s", text)
        self._away = told

    def _override_of(self, name: str, path: str) -> str:
        full = f"{self._spaces.get(path, '')}::{name}"
        brought = self.overrides.get(self._config.name or name) or self.overrides.get(full)
        return brought.config if brought else ""

    def _replaced(self, found: dict[ModelId, Manifest]) -> dict[ModelId, Manifest]:
        """With the files that came by request in place of the models' own."""
        for name, brought in list(self.overrides.items()):
            if brought.folder is not None:
                layout = self._layout(FileStore(brought.folder), lambda _, b=brought: b.config)  # type: ignore[misc]
                found = {id: m for id, m in found.items() if id.name != name}
                found |= {m.id: _sent(m, brought) for m in layout.one(name)}
                for member, folder in brought.members.items():
                    found |= self._member(found, name, member, folder, brought)
        return found

    def _member(
        self, found: dict[ModelId, Manifest], name: str, member: str, folder: Path, brought: Brought
    ) -> dict[ModelId, Manifest]:
        """A model that came with another, by its own name, which must be free."""
        if any(id.name == member for id in found):
            problem = f"its member '{member}' has the name of another model; rename one of them"
            return {
                id: msgspec.structs.replace(m, problem=problem) for id, m in found.items() if id.name == name
            }
        layout = self._layout(FileStore(folder), lambda _: "")
        return {m.id: _sent(m, brought) for m in layout.one(member)}

    def _admitted(self, manifest: Manifest) -> Manifest:
        """Refuse what requests brought if it can touch the machine; who fills the repository is not asked."""
        brought, is_ensemble = manifest.brought, bool(manifest.config.ensemble.steps)
        if not brought or manifest.problem or self._config.trusts_code or is_ensemble:
            return manifest
        if self._touches(manifest.backend, manifest.format):
            return msgspec.structs.replace(manifest, problem=_refusal(manifest))
        link = _leads_out(manifest.home) if brought != "config" else None
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


def namespaces(paths: Collection[str]) -> dict[str, str]:
    """A short name for each path: its last part, or as many as tell it from the others.

    >>> namespaces(["/a/models", "s3://b/models"])
    {'/a/models': 'a.models', 's3://b/models': 'b.models'}
    """
    parts = {path: [part for part in path.split("/") if part] for path in paths}
    for size in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {path: ".".join(found[-size:]) for path, found in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return dict(zip(paths, paths, strict=True))


def _spaced(everything: Sequence[tuple[str, Manifest]], spaces: Mapping[str, str]) -> Iterator[Manifest]:
    """Where models of several paths have one name, each is called ``NAMESPACE::NAME``.

    Args:
        spaces: Namespaces by path; empty = there are none.
    """
    places: dict[str, set[str]] = {}
    for path, manifest in everything:
        places.setdefault(manifest.id.name, set()).add(path)
    names: dict[str, dict[str, str]] = {}
    for name, found in places.items():
        for path in found if len(found) > 1 and spaces else ():
            names.setdefault(path, {})[name] = f"{spaces[path]}::{name}"
    for path, manifest in everything:
        yield _renamed(manifest, names[path]) if path in names else manifest


def _renamed(manifest: Manifest, names: Mapping[str, str]) -> Manifest:
    """With other names for it, and for the members of an ensemble."""
    replace, id, steps = msgspec.structs.replace, manifest.id, manifest.config.ensemble.steps
    if id.name in names:
        manifest = replace(manifest, id=ModelId(names[id.name], id.version))
    if any(step.model in names for step in steps):
        steps = tuple(replace(step, model=names.get(step.model, step.model)) for step in steps)
        ensemble = replace(manifest.config.ensemble, steps=steps)
        config = replace(manifest.config, ensemble=ensemble)
        manifest = replace(manifest, config=config, fingerprint=f"{manifest.fingerprint} of a namespace")
    return manifest


def _refusal(manifest: Manifest) -> str:
    """Why what a request brought is not loaded, and what to do."""
    what, instead = _REFUSED[manifest.brought]
    trust = "--trust_pickle" if manifest.brought == "path" else "--trust-pickle"
    return (
        f"model '{manifest.id.name}' {what} {manifest.format} (backend {manifest.backend}). Loading or "
        "running that can read and write files, use the network, run code or end the process. If you trust "
        f"all who can send such requests, start with {trust}; else {instead}"
    )


def _sent(manifest: Manifest, brought: Brought) -> Manifest:
    """With the mark of what requests brought, unless the platform chose it."""
    return msgspec.structs.replace(manifest, brought="" if brought.is_trusted else "files")


def _leads_out(home: Path) -> Path | None:
    """A link below a folder that leads to something outside of it; the folder's own path may hold links."""
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


def _with_batching(manifest: Manifest, store: Store) -> Manifest:
    """With what a version's own file says of batching, unless its configuration says something."""
    path = f"{manifest.id.version}/{FILE}"
    if manifest.config.batching != Batching() or store.stat(path) is None:
        return manifest
    try:
        parameters = tf_text.parse(store.read(path, tf_text.MAX_BYTES), "BatchingParameters", path)
        batching = batching_of(parameters)
    except (InvalidInput, StoreFailed) as error:
        return msgspec.structs.replace(manifest, problem=str(error))
    config = msgspec.structs.replace(manifest.config, batching=batching)
    return msgspec.structs.replace(manifest, config=config)


def _told(manifest: Manifest, told: Callable[[str], str]) -> Manifest:
    """With the words for its owner about the store's own names."""
    notices = tuple(told(notice) for notice in manifest.notices)
    return msgspec.structs.replace(manifest, problem=told(manifest.problem), notices=notices)


def _whose(manifest: Manifest) -> tuple[str, str]:
    """Of whom there may be one: a model, or a version that is an archive of its own."""
    return manifest.id.name, manifest.id.version if manifest.format == FORMAT else ""


def _clashing(manifest: Manifest, where: Iterable[Path]) -> Manifest:
    places = " and ".join(str(place) for place in where)
    problem = f"the model name {manifest.id.name!r} is used more than once: in {places}; rename one of them"
    return msgspec.structs.replace(manifest, problem=problem)
