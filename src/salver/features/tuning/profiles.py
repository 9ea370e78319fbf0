"""Where does what was found out about models lie between two starts of the server?

Profiles, and tables of the policy ``learned``: one JSON file each, below the state directory, replaced in
one step. A file that is missing, broken or of another machine is no error: the model is measured anew. It
knows no engine and measures nothing.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from salver.backends.protocol import Backend
from salver.features.tuning.profile import Machine, Profile, from_bytes, key_of, to_bytes
from salver.kernel.repository.names import is_padded_version, is_visible
from salver.stats import batch_table
from salver.stats.batch_table import Table
from salver.words.artifacts import Batching, Manifest
from salver.words.errors import InvalidInput

_LOG = logging.getLogger("salver.profiles")
_MOST_BYTES = 4 << 30  # of an artefact whose content is looked at; larger ones go by name, size and time
_CHUNK = 1 << 20
_MOST_FILES = 512  # of each kind; the oldest go, such as those of files that were replaced long ago


def machine(backend: Backend, cores: int) -> Machine:
    """What is here, as far as a measurement of the backend's models depends on it."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = [n for n in Path("/proc/cpuinfo").read_text().splitlines() if n.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    packages = importlib.metadata.packages_distributions()  # of ``sklearn`` it is scikit-learn
    names = {"salver", *(p for m in backend.modules for p in packages.get(m.partition(".")[0], ()))}
    versions = {}
    for name in sorted(names):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return Machine(cpu, cores, versions)


def digest(path: Path) -> str:
    """Of a file's content, or of all in a folder that is visible; empty when too large or unreadable."""
    found = hashlib.blake2b(digest_size=16)
    left = _MOST_BYTES
    try:
        for file in sorted(_visible(path)) if path.is_dir() else [path]:
            left -= file.stat().st_size
            if left < 0:
                return ""
            found.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    found.update(chunk)
    except (OSError, ValueError):
        return ""
    return found.hexdigest()


def _visible(folder: Path) -> Iterator[Path]:
    """Its files, and those of its folders, without what Python and editors leave there."""
    for path in folder.iterdir():
        if is_visible(path.name):
            if path.is_dir() and not path.is_symlink():  # which could lead round in a circle
                yield from _visible(path)
            elif path.is_file():
                yield path


class ProfileStore:
    """The profiles and tables of one state directory. Blocking.

    Args:
        state_dir: Empty = nothing is kept.
    """

    def __init__(self, state_dir: str = "") -> None:
        self._state = Path(state_dir) if state_dir else None

    def __repr__(self) -> str:
        return f"<ProfileStore {self._state or 'that keeps nothing'}>"

    def key(self, manifest: Manifest) -> str:
        """Under what the version's profile lies: its content decides, not its name or time."""
        path, warmup = manifest.path, manifest.config.warmup.file
        if is_padded_version(path.parent.name):  # weights and sources beside the artefact count too
            return key_of(manifest, digest(path.parent))
        content = digest(path)
        return key_of(manifest, content and content + (digest(path.parent / warmup) if warmup else ""))

    def table_key(self, manifest: Manifest, batching: Batching) -> str:
        """Under what a table for this version, price and batch limit lies."""
        told = f"{self.key(manifest)} {batching.max_rows} {batching.learned!r}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def read(self, key: str, machine: Machine) -> Profile | None:
        """The profile that was kept, if it is whole and of this machine."""
        content = self._read("profiles", key)
        try:
            profile = from_bytes(content) if content else None
        except InvalidInput as error:
            _LOG.warning("the profile %s cannot be used and is measured anew: %s", key, error)
            return None
        return profile if profile and profile.key == key and profile.machine == machine else None

    def write(self, profile: Profile) -> None:
        """Keep a profile; a disk that is full or not ours is logged, and no more."""
        self._write("profiles", profile.key, to_bytes(profile))

    def read_table(self, key: str) -> Table | None:
        """The table that was kept, if it is whole. Whether it still holds, the law decides."""
        content = self._read("tables", key)
        try:
            return batch_table.from_bytes(content) if content else None
        except InvalidInput as error:
            _LOG.warning("the table %s cannot be used and is made anew: %s", key, error)
            return None

    def write_table(self, key: str, content: bytes) -> None:
        """Keep a table, as :meth:`write`."""
        self._write("tables", key, content)

    def _read(self, kind: str, key: str) -> bytes:
        if self._state is None:
            return b""
        path = self._state / kind / f"{key}.json"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            _LOG.warning("%s cannot be read: %s", path, error.strerror or error)
            return b""

    def _write(self, kind: str, key: str, content: bytes) -> None:
        if self._state is None:
            return
        path = self._state / kind / f"{key}.json"
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            part.replace(path)
            files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime)
            for old in files[:-_MOST_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("%s cannot be kept: %s", path, error.strerror or error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
