"""Which versions exist, and are they whole?

Gives the whole list each time, from all paths; keeps nothing but what it needs to tell a finished
change from one under way. It loads nothing and knows no framework.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.artifacts import LoadOrder, Manifest
from salver.errors import InvalidInput, NotFound, SalverError
from salver.messages import ModelId
from salver.repository.archive import open_archive
from salver.repository.brought import MOST_BYTES, Brought, bring
from salver.repository.layout import Layout
from salver.repository.ports import Recognise
from salver.repository.settle import Settling
from salver.stores import DistantStore, FileStore, Store, StoreFailed

_LOG = logging.getLogger("salver.repository")
#: Backends whose artefacts are programs.
_CODE: Final = frozenset({"python"})


def _file_store(path: Path | str) -> Store:
    return FileStore(Path(path))


class Repository:
    """The models below some paths.

    Args:
        paths: Model files, folders that are artefacts, folders of versions, repositories of many.
        recognise: Tells formats apart.
        name: Name of the one model that the paths must then hold; empty = by file or folder.
        settle_s: Seconds for which a change must rest before it counts, from the second scan on.
        open_store: Opens one path.
        trusts_code: Models that are code may come with a request, too.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        recognise: Recognise,
        name: str = "",
        settle_s: float = 1.0,
        open_store: Callable[[Path | str], Store] = _file_store,
        *,
        trusts_code: bool = False,
    ) -> None:
        self._paths = tuple(paths)
        self._stores = tuple(open_store(path) for path in paths)
        self._recognise = recognise
        self._name = name
        self._settling = Settling(settle_s)
        self._before: dict[Path | str, tuple[Manifest, ...]] = {}  # what was last found in distant stores
        self._away: set[str] = set()
        self._trusts_code = trusts_code
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
            InvalidInput, TooLarge, LoadFailed: see :func:`~salver.repository.brought.bring`.
        """
        if order.folder:
            return open_archive(name, order.folder)
        held = sum(brought.bytes for brought in list(self.overrides.values()))
        return bring(name, order, MOST_BYTES - held)

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
        found: dict[ModelId, Manifest] = {}
        homes: dict[str, dict[Path, None]] = {}
        away: list[SalverError] = []
        for path, store in zip(self._paths, self._stores, strict=True):
            try:
                read = self._read(path, store)
            except StoreFailed as error:
                before = self._before.get(path)
                if before is None or at_once & {manifest.id.name for manifest in before}:
                    raise
                away.append(error)
                read = before
            for manifest in read:
                found[manifest.id] = manifest
                homes.setdefault(manifest.id.name, {})[manifest.home] = None
        if away and at_once - {id.name for id in found}:
            raise away[0]
        self._tell(away)
        for id, manifest in found.items():
            if len(homes[id.name]) > 1:
                found[id] = _clashing(manifest, homes[id.name])
        settled = self._replaced(self._settling.take(self._renamed(found), now, at_once))
        return tuple(settled[id] for id in sorted(settled))

    def _read(self, path: Path | str, store: Store) -> tuple[Manifest, ...]:
        """What lies below one path now."""
        if isinstance(store, DistantStore):
            store.refresh()
        if store.stat("") is None:
            raise NotFound(f"{path} does not exist", fix="Give a model file, or a folder with models")
        layout = Layout(store, self._recognise, self._override_of)
        found = tuple(msgspec.structs.replace(m, home=home) for home, m in layout.read())
        if isinstance(store, DistantStore):
            found = self._before[path] = tuple(_told(manifest, store.told) for manifest in found)
        return found

    def _tell(self, away: Sequence[SalverError]) -> None:
        """The log has which places cannot be read, once."""
        told = {str(error) for error in away}
        for text in sorted(told - self._away):
            _LOG.error("%s; the models that were found there before stay as they are", text)
        self._away = told

    def _override_of(self, name: str) -> str:
        brought = self.overrides.get(self._name or name)
        return brought.config if brought else ""

    def _replaced(self, found: dict[ModelId, Manifest]) -> dict[ModelId, Manifest]:
        """With the files that came by request in place of the models' own."""
        for name, brought in list(self.overrides.items()):
            if brought.folder is not None:
                layout = Layout(FileStore(brought.folder), self._recognise, lambda _, b=brought: b.config)  # type: ignore[misc]
                found = {id: m for id, m in found.items() if id.name != name}
                found |= {m.id: self._vetted(m, brought) for m in layout.one(name)}
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
        layout = Layout(FileStore(folder), self._recognise, lambda _: "")
        return {m.id: self._vetted(m, brought) for m in layout.one(member)}

    def _vetted(self, manifest: Manifest, brought: Brought) -> Manifest:
        """Not everyone who may have a model loaded may run code here; who fills the repository may."""
        if manifest.backend not in _CODE or self._trusts_code or brought.is_trusted:
            return manifest
        problem = (
            f"the files that came with the request are code ({manifest.path.name}). If you trust all who can "
            "send such requests, start with --trust-pickle; else put the model into the repository"
        )
        return msgspec.structs.replace(manifest, problem=problem)

    def _renamed(self, found: dict[ModelId, Manifest]) -> dict[ModelId, Manifest]:
        names = sorted({id.name for id in found})
        if not self._name or not names:
            return found
        if len(names) > 1:
            raise InvalidInput(
                f"the name {self._name!r} is for one model, not for {len(names)}: {', '.join(names[:5])}",
                fix="Leave the name out, or give the path of one model",
            )
        renamed = (msgspec.structs.replace(m, id=ModelId(self._name, id.version)) for id, m in found.items())
        return {m.id: m for m in renamed}


def _told(manifest: Manifest, told: Callable[[str], str]) -> Manifest:
    """With the words for its owner about the store's own names."""
    notices = tuple(told(notice) for notice in manifest.notices)
    return msgspec.structs.replace(manifest, problem=told(manifest.problem), notices=notices)


def _clashing(manifest: Manifest, where: Iterable[Path]) -> Manifest:
    places = " and ".join(str(place) for place in where)
    problem = f"the model name {manifest.id.name!r} is used more than once: in {places}; rename one of them"
    return msgspec.structs.replace(manifest, problem=problem)
