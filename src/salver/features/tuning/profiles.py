"""Store of profiles and of batching tables.

One JSON file each in the state directory, replaced atomically. A file that is missing, broken or of another
machine is not an error: the model is measured again. It knows no engine and measures nothing.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from salver.backends.protocol import Backend
from salver.features.tuning.profile import Machine, Profile, from_bytes, key_of, to_bytes
from salver.kernel.repository.fingerprint import digest
from salver.kernel.repository.names import is_padded_version
from salver.stats import batch_table
from salver.stats.batch_table import Table
from salver.words.artifacts import Batching, Manifest
from salver.words.errors import InvalidInput

_LOG = logging.getLogger("salver.profiles")
_MOST_FILES = 512  # of each kind; the oldest go, such as those of files that were replaced long ago


def machine(backend: Backend, cores: int) -> Machine:
    """Return the properties of this machine that measurements of the backend's models depend on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = [n for n in Path("/proc/cpuinfo").read_text().splitlines() if n.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    return Machine(cpu, cores, dict(_versions(tuple(backend.modules))))


@functools.cache  # looking through all installed packages takes up to a second
def _versions(modules: tuple[str, ...]) -> Mapping[str, str]:
    """Return the versions of Salver and of the packages that have these modules."""
    packages = importlib.metadata.packages_distributions()  # module ``sklearn``, package scikit-learn
    names = {"salver", *(p for m in modules for p in packages.get(m.partition(".")[0], ()))}
    versions = {}
    for name in sorted(names):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class ProfileStore:
    """Profiles and tables of one state directory. Blocking.

    Args:
        state_dir: Empty = nothing is stored.
    """

    def __init__(self, state_dir: str = "") -> None:
        self._state = Path(state_dir) if state_dir else None

    def __repr__(self) -> str:
        return f"<ProfileStore {self._state or 'that keeps nothing'}>"

    def key(self, manifest: Manifest) -> str:
        """Return the key of the version's profile: by content, not by name or time."""
        path, warmup = manifest.path, manifest.config.warmup.file
        if is_padded_version(path.parent.name):  # weights and sources beside the artefact count too
            return key_of(manifest, digest(path.parent))
        content = digest(path)
        return key_of(manifest, content and content + (digest(path.parent / warmup) if warmup else ""))

    def table_key(self, manifest: Manifest, batching: Batching) -> str:
        """Return the key of a table for this version, price and batch limit."""
        told = f"{self.key(manifest)} {batching.max_rows} {batching.learned!r}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def read(self, key: str, machine: Machine) -> Profile | None:
        """Return the stored profile if it is valid and of this machine."""
        content = self._read("profiles", key)
        try:
            profile = from_bytes(content) if content else None
        except InvalidInput as error:
            _LOG.warning("the profile %s cannot be used; measuring again: %s", key, error)
            return None
        if profile and profile.key == key and profile.machine == machine:
            return profile
        return None

    def write(self, profile: Profile) -> None:
        """Store a profile; failures are only logged."""
        self._write("profiles", profile.key, to_bytes(profile))

    def read_table(self, key: str) -> Table | None:
        """Return the stored table if it is valid; the caller checks its law."""
        content = self._read("tables", key)
        try:
            if not content:
                return None
            return batch_table.from_bytes(content)
        except InvalidInput as error:
            _LOG.warning("the table %s cannot be used; computing again: %s", key, error)
            return None

    def write_table(self, key: str, content: bytes) -> None:
        """Store a table; failures are only logged."""
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
            _LOG.warning("%s cannot be written: %s", path, error.strerror or error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
