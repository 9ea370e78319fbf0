"""What lies in the folder of somebody's deployment: which models, which files that say how they are served?

Judged by content, by a bounded look; nothing is run, loaded or changed, and no link is followed out of the
folder. What is made of it is not known here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import msgspec

from salver.dialects.torchserve.archive_files import read_archive
from salver.dialects.triton.config.pbtxt import FILE as PBTXT
from salver.encoding.plain_yaml import read_documents
from salver.kernel.repository.names import is_padded_version, is_visible
from salver.migration import command_lines
from salver.migration.command_lines import Launch
from salver.words.errors import BadArchive, InvalidInput, MissingExtra, NotFound

Kind = Literal[
    "properties",  # of TorchServe
    "models",  # the others: text protobufs of TensorFlow Serving
    "batching",
    "monitoring",
    "platform",
    "ssl",
]

_MOST_ENTRIES: Final = 50_000
_MOST_DEEP: Final = 12
_MOST_FILE: Final = 256 << 10
_MOST_READ: Final = 32 << 20
_ARCHIVES: Final = (".mar", ".tar.gz", ".tgz")
_MANIFEST: Final = "MAR-INF/MANIFEST.json"
_SAVED_MODEL: Final = "saved_model.pb"
#: What Triton's backends look for in a version's folder.
_TRITONS: Final = re.compile(r"model\.(?:onnx|pt|py|plan|xml|savedmodel|graphdef|json|txt|dali|pt2)")
_NOT_READ: Final = frozenset({"node_modules", "__pycache__", "site-packages", "venv"})
_TEXTS: Final[tuple[tuple[re.Pattern[str], Kind], ...]] = (
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
_PROPERTIES: Final = re.compile(
    r"^\s*(?:inference_address|management_address|model_store|load_models|metrics_address|model_snapshot|"
    r"default_workers_per_model|service_envelope|enable_model_api|disable_token_authorization)\s*[=:]",
    re.MULTILINE,
)
_NAMED_SHELL: Final = (".sh", ".bash", ".service", ".command", ".env.sh")
_NAMED_YAML: Final = (".yaml", ".yml")


class Started(msgspec.Struct, frozen=True):
    """A command line, and the file that it stands in."""

    file: Path
    launch: Launch


class Deployment(msgspec.Struct, frozen=True):
    """What there is.

    Attributes:
        archives: Of TorchServe, by the folder that they lie in.
        repositories: Triton's.
        base_paths: TensorFlow Serving's, by the name of the folder.
        files: That say how models are served.
        unread: Files that may say something and were not read, each with why.
    """

    folder: Path
    archives: Mapping[Path, tuple[Path, ...]] = {}
    repositories: tuple[Path, ...] = ()
    base_paths: tuple[Path, ...] = ()
    files: Mapping[Kind, tuple[Path, ...]] = {}
    started: tuple[Started, ...] = ()
    unread: tuple[str, ...] = ()

    def meant(self, path: str, launch: Launch, beside: Path) -> Path | None:
        """Where a path of a command line lies in the folder; None = it is nowhere here.

        As it is where it exists; through what the container was given; by its last part, where only one
        thing in the folder is called so.

        Args:
            beside: The file that the command line stands in.
        """
        for candidate in _candidates(path, launch.mounts):
            for base in (beside.parent, self.folder):
                full = base / candidate
                if full.exists() and _is_inside(full, self.folder):
                    return full.resolve()
        name = PurePosixPath(path.rstrip("/")).name
        there = {found for found in self._known() if found.name == name}
        return there.pop() if len(there) == 1 else None

    def _known(self) -> Iterator[Path]:
        yield from self.archives
        yield from self.repositories
        yield from self.base_paths
        for files in self.files.values():
            yield from files


class _Looked:
    """What a walk has found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archives: dict[Path, list[Path]] = {}
        self.repositories: dict[Path, None] = {}
        self.base_paths: dict[Path, None] = {}
        self.files: dict[Kind, list[Path]] = {}
        self.started: list[Started] = []
        self.unread: list[str] = []
        self.read = 0

    def entries(self) -> Iterator[tuple[Path, bool]]:
        """Files and folders, each with whether it is one; a folder is gone into unless it is an artefact."""
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
                goes_in = is_folder and path.name not in _NOT_READ and not (path / _MANIFEST).is_file()
                if goes_in and deep < _MOST_DEEP and real not in seen:
                    seen.add(real)
                    left.append((path, deep + 1))

    def text(self, path: Path) -> str:
        """Of a small file; empty where it is none, or more than may be read."""
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


def look(folder: Path) -> Deployment:
    """What lies in a folder. Blocking.

    Raises:
        NotFound: it is none.
        InvalidInput: it holds more than is looked at.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise NotFound(f"{folder} is no folder", fix="Give the folder that holds the deployment.")
    looked = _Looked(root)
    if (root / _MANIFEST).is_file():
        looked.archives[root.parent] = [root]
    for path, is_folder in looked.entries():
        if is_folder:
            if (path / _MANIFEST).is_file():
                looked.archives.setdefault(path.parent, []).append(path)
        elif path.name.endswith(_ARCHIVES):
            _archive(path, looked)
        else:
            _place(path, looked)
            _file(path, looked)
    repositories = [r for r in looked.repositories if not any(p in looked.repositories for p in r.parents)]
    bases = [b for b in looked.base_paths if not any(p in looked.repositories for p in b.parents)]
    return Deployment(
        root,
        {place: tuple(sorted(found)) for place, found in sorted(looked.archives.items())},
        tuple(sorted(repositories)),
        tuple(sorted(bases)),
        {kind: tuple(sorted(found)) for kind, found in looked.files.items()},
        tuple(sorted(looked.started, key=lambda each: (each.file, each.launch.line))),
        tuple(looked.unread),
    )


def _listed(folder: Path, root: Path) -> list[tuple[Path, bool]]:
    try:
        paths = sorted(path for path in folder.iterdir() if is_visible(path.name))
    except OSError:
        return []
    return [(p, p.is_dir()) for p in paths if _is_inside(p, root) and (p.is_dir() or p.is_file())]


def _is_inside(path: Path, root: Path) -> bool:
    """No link leads out."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _candidates(path: str, mounts: Mapping[str, str]) -> Iterator[str]:
    """Where it may lie: behind the longest mount first."""
    for target in sorted(mounts, key=len, reverse=True):
        rest = target.rstrip("/")
        if path == rest or path.startswith(f"{rest}/"):
            yield mounts[target].rstrip("/") + path[len(rest) :]
    if path:
        yield path
        yield path.lstrip("/")


def _archive(path: Path, looked: _Looked) -> None:
    try:
        if path.name.endswith(".mar") or read_archive(path).name:
            looked.archives.setdefault(path.parent, []).append(path)
    except BadArchive:
        pass


def _place(path: Path, looked: _Looked) -> None:
    """A file that tells what a folder above it is to Triton or TensorFlow Serving."""
    above, is_version = path.parents, is_padded_version(path.parent.name)
    found = looked.repositories
    if path.name == PBTXT:
        place = above[1]
    elif path.name == _SAVED_MODEL and is_version:
        place, found = above[1], looked.base_paths
    elif path.name == _SAVED_MODEL and path.parent.name == "model.savedmodel" and len(above) > 3:
        place = above[3]
    elif is_version and _TRITONS.fullmatch(path.name) and len(above) > 2:
        place = above[2]
    else:
        return
    if place.is_relative_to(looked.folder):
        found[place] = None
    else:
        looked.unread.append(f"{looked.folder} is one model: give the folder above it")


def _file(path: Path, looked: _Looked) -> None:
    name = path.name.lower()
    if name.startswith("dockerfile") or name.endswith((".dockerfile", "containerfile")):
        launches: Iterable[Launch] = command_lines.of_dockerfile(looked.text(path))
    elif name.endswith(_NAMED_YAML):
        launches = _of_yaml(path, looked)
    elif name.endswith(_NAMED_SHELL) or name in ("makefile", "procfile") or _is_script(path):
        launches = command_lines.of_shell(looked.text(path))
    elif name.endswith((".properties", ".cfg")):
        if _PROPERTIES.search(looked.text(path)):
            looked.files.setdefault("properties", []).append(path)
        return
    elif name.endswith((".config", ".conf", ".txt", ".pbtxt", ".textproto")):
        text = looked.text(path)
        if kind := next((kind for pattern, kind in _TEXTS if pattern.search(text)), None):
            looked.files.setdefault(kind, []).append(path)
        return
    else:
        return
    looked.started += [Started(path, launch) for launch in launches if _starts(launch)]


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


def _of_yaml(path: Path, looked: _Looked) -> tuple[Launch, ...]:
    text = looked.text(path)
    if not re.search(r"torchserve|tritonserver|tensorflow", text):
        return ()
    try:
        return command_lines.of_yaml(read_documents(text, str(path), "torchserve"), text)
    except MissingExtra:
        looked.unread.append(
            f"{path.relative_to(looked.folder)} is YAML: pip install 'salver[torchserve]' reads it"
        )
    except InvalidInput:
        looked.unread.append(f"{path.relative_to(looked.folder)} is no YAML")
    return ()
