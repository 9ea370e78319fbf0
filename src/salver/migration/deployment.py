"""Models, configuration files and command lines in the folder of a deployment of other servers.

Files are recognised by content, within bounds; nothing is run, loaded or changed, and no link is followed out
of the folder.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import msgspec

from salver.encoding.plain_yaml import read_documents
from salver.kernel.repository.names import is_visible
from salver.migration import command_lines
from salver.migration.command_lines import Launch
from salver.words.errors import InvalidInput, MissingExtra, NotFound

#: Kinds of places with models, and of files that say how they are served.
Kind = Literal[
    "archive",
    "repository",
    "base path",
    "properties",  # of TorchServe
    "models",  # the others: text protobufs of TensorFlow Serving
    "batching",
    "monitoring",
    "platform",
    "ssl",
]
#: Reads a small file; returns nothing for one that cannot be read or is too large.
ReadText = Callable[[Path], str]

_PLACES: Final = ("archive", "repository", "base path")
_MOST_ENTRIES: Final = 50_000
_MOST_DEEP: Final = 12
_MOST_FILE: Final = 256 << 10
_MOST_READ: Final = 32 << 20
_NOT_READ: Final = frozenset({"node_modules", "__pycache__", "site-packages", "venv"})
_NAMED_SHELL: Final = (".sh", ".bash", ".service", ".command", ".env.sh")
_NAMED_YAML: Final = (".yaml", ".yml")


class Sighting(msgspec.Struct, frozen=True):
    """A place or file of a deployment that one of the servers knows."""

    kind: Kind
    path: Path


#: Given a path and whether it is a folder. A folder that is an archive is not entered.
Recognise = Callable[[Path, bool, ReadText], Iterable[Sighting]]


class ServerStart(msgspec.Struct, frozen=True):
    """A command line that starts a server, and its file."""

    file: Path
    launch: Launch


class Deployment(msgspec.Struct, frozen=True):
    """Contents of a deployment's folder.

    Attributes:
        archives: Archives of models, by their folder.
        repositories: Folders of models that are folders of versions.
        base_paths: Folders of versions of one model.
        files: Files that say how models are served.
        started: Command lines that start servers.
        unread: Files that were not read, each with the reason.
    """

    folder: Path
    archives: Mapping[Path, tuple[Path, ...]] = {}
    repositories: tuple[Path, ...] = ()
    base_paths: tuple[Path, ...] = ()
    files: Mapping[Kind, tuple[Path, ...]] = {}
    started: tuple[ServerStart, ...] = ()
    unread: tuple[str, ...] = ()

    def find(self, path: str, launch: Launch, beside: Path) -> Path | None:
        """Return where a path of a command line lies in the folder; None if it is not there.

        It is tried as it is, through the container's mounts, and by its last part if only one thing in the
        folder has that name.

        Args:
            beside: The file with the command line.
        """
        for candidate in _candidates(path, launch.mounts):
            for base in (beside.parent, self.folder):
                full = base / candidate
                if full.exists() and _is_inside(full, self.folder):
                    return full.resolve()
        name = PurePosixPath(path.rstrip("/")).name
        there = {found for found in self._known() if found.name == name}
        if len(there) != 1:
            return None
        return there.pop()

    def _known(self) -> Iterator[Path]:
        yield from self.archives
        yield from self.repositories
        yield from self.base_paths
        for files in self.files.values():
            yield from files


class _Walk:
    """A walk through the folder, and what it has found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[Kind, dict[Path, None]] = {}
        self.started: list[ServerStart] = []
        self.unread: list[str] = []
        self.read = 0

    def entries(self) -> Iterator[tuple[Path, bool]]:
        """Yield files and folders, each with whether it is a folder; archives are not entered."""
        seen = {self.folder}
        left = [(self.folder, 0)]
        count = 0
        while left:
            folder, deep = left.pop()
            for path, is_folder in _listed(folder, self.folder):
                count += 1
                if count > _MOST_ENTRIES:
                    raise InvalidInput(
                        f"{self.folder} holds more than {_MOST_ENTRIES} files",
                        fix="Give the folder of one deployment.",
                    )
                yield path, is_folder
                real = path.resolve()
                goes_in = is_folder and path.name not in _NOT_READ and path not in self.paths("archive")
                if goes_in and deep < _MOST_DEEP and real not in seen:
                    seen.add(real)
                    left.append((path, deep + 1))

    def add(self, sighting: Sighting) -> None:
        """Add what a server knows, unless it is the folder above the whole deployment."""
        is_place = sighting.kind in ("repository", "base path")
        if is_place and not sighting.path.is_relative_to(self.folder):
            self.unread.append(f"{self.folder} is one model: give the folder above it")
        else:
            self.found.setdefault(sighting.kind, {})[sighting.path] = None

    def paths(self, kind: Kind) -> Mapping[Path, None]:
        """Return what was found of a kind."""
        return self.found.get(kind, {})

    def text(self, path: Path) -> str:
        """Return the text of a small file; nothing for one that cannot be read or is too large."""
        try:
            size = path.stat().st_size
            if size > _MOST_FILE or self.read + size > _MOST_READ:
                self.unread.append(f"{path.relative_to(self.folder)} is too large to be read")
                return ""
            self.read += size
            return path.read_bytes().decode("utf-8", "replace")
        except OSError as error:
            self.unread.append(f"{path.relative_to(self.folder)} cannot be read: {error.strerror or error}")
            return ""


def look(folder: Path, recognisers: Sequence[Recognise]) -> Deployment:
    """Return what lies in a folder. Blocking.

    Args:
        recognisers: One for each kind of server.

    Raises:
        NotFound: it is no folder.
        InvalidInput: it holds too many files.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise NotFound(f"{folder} is not a folder", fix="Give the folder that holds the deployment.")
    walk = _Walk(root)
    for path, is_folder in itertools.chain([(root, True)], walk.entries()):
        for recognise in recognisers:
            for sighting in recognise(path, is_folder, walk.text):
                walk.add(sighting)
        if not is_folder:
            _add_launches(path, walk)
    repositories, bases = walk.paths("repository"), walk.paths("base path")
    archives: dict[Path, list[Path]] = {}
    for path in walk.paths("archive"):
        archives.setdefault(path.parent, []).append(path)
    return Deployment(
        root,
        {place: tuple(sorted(found)) for place, found in sorted(archives.items())},
        tuple(sorted(path for path in repositories if repositories.keys().isdisjoint(path.parents))),
        tuple(sorted(path for path in bases if repositories.keys().isdisjoint(path.parents))),
        {kind: tuple(sorted(found)) for kind, found in walk.found.items() if kind not in _PLACES},
        tuple(sorted(walk.started, key=lambda each: (each.file, each.launch.line))),
        tuple(walk.unread),
    )


def _listed(folder: Path, root: Path) -> list[tuple[Path, bool]]:
    try:
        paths = sorted(path for path in folder.iterdir() if is_visible(path.name))
    except OSError:
        return []
    return [(p, p.is_dir()) for p in paths if _is_inside(p, root) and (p.is_dir() or p.is_file())]


def _is_inside(path: Path, root: Path) -> bool:
    """Return whether the path stays in the folder when links are followed."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _candidates(path: str, mounts: Mapping[str, str]) -> Iterator[str]:
    """Yield where a path may lie, through the longest mount first."""
    for target in sorted(mounts, key=len, reverse=True):
        rest = target.rstrip("/")
        if path == rest or path.startswith(f"{rest}/"):
            yield mounts[target].rstrip("/") + path[len(rest) :]
    if path:
        yield path
        yield path.lstrip("/")


def _add_launches(path: Path, walk: _Walk) -> None:
    name = path.name.lower()
    if name.startswith("dockerfile") or name.endswith((".dockerfile", "containerfile")):
        launches: Iterable[Launch] = command_lines.of_dockerfile(walk.text(path))
    elif name.endswith(_NAMED_YAML):
        launches = _of_yaml(path, walk)
    elif name.endswith(_NAMED_SHELL) or name in ("makefile", "procfile") or _is_script(path):
        launches = command_lines.of_shell(walk.text(path))
    else:
        return
    walk.started += [ServerStart(path, launch) for launch in launches if _starts(launch)]


def _starts(launch: Launch) -> bool:
    return not {"--stop", "--help", "--version", "-v"} & set(launch.words)


def _is_script(path: Path) -> bool:
    if "." in path.name:
        return False
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _of_yaml(path: Path, walk: _Walk) -> tuple[Launch, ...]:
    text = walk.text(path)
    if not re.search(r"torchserve|tritonserver|tensorflow", text):
        return ()
    try:
        return command_lines.of_yaml(read_documents(text, str(path), "torchserve"), text)
    except MissingExtra:
        walk.unread.append(
            f"{path.relative_to(walk.folder)} is YAML: pip install 'salver[torchserve]' reads it"
        )
    except InvalidInput:
        walk.unread.append(f"{path.relative_to(walk.folder)} is not valid YAML")
    return ()
