"""Where do profiles lie between two starts of the server?

One JSON file each, below the state directory, replaced in one step. A file that is missing, broken or of
another machine is no error: the model is measured anew. It knows no engine and measures nothing.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import platform
from pathlib import Path

from salver.artifacts import Manifest
from salver.backends.protocol import Backend
from salver.errors import InvalidInput
from salver.planner.profile import Machine, Profile, from_bytes, key_of, to_bytes

_LOG = logging.getLogger("salver.profiles")
_MOST_BYTES = 4 << 30  # of an artefact whose content is looked at; larger ones go by name, size and time
_CHUNK = 1 << 20


def default_state_dir() -> str:
    """``$XDG_STATE_HOME/salver``, by default ``~/.local/state/salver``; empty where there is no home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not Path(base).is_absolute():  # the specification has relative paths ignored
        try:
            base = str(Path.home() / ".local" / "state")
        except RuntimeError:
            return ""
    return str(Path(base) / "salver")


def machine(backend: Backend, cores: int) -> Machine:
    """What is here, as far as a measurement of the backend's models depends on it."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = [n for n in Path("/proc/cpuinfo").read_text().splitlines() if n.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    versions = {}
    for package in ("salver", *backend.modules):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package.partition(".")[0])
    return Machine(cpu, cores, versions)


def digest(path: Path) -> str:
    """Of an artefact's content, a file's or all of a folder's; empty when it is too large or unreadable."""
    found = hashlib.blake2b(digest_size=16)
    left = _MOST_BYTES
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
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


class ProfileStore:
    """The profiles of one state directory. Blocking.

    Args:
        state_dir: Empty = nothing is kept.
    """

    def __init__(self, state_dir: str = "") -> None:
        self._folder = Path(state_dir) / "profiles" if state_dir else None

    def __repr__(self) -> str:
        return f"<ProfileStore {self._folder or 'that keeps nothing'}>"

    def key(self, manifest: Manifest) -> str:
        """Under what the version's profile lies: its content decides, not its name or time."""
        return key_of(manifest, digest(manifest.path))

    def read(self, key: str, machine: Machine) -> Profile | None:
        """The profile that was kept, if it is whole and of this machine."""
        if self._folder is None:
            return None
        path = self._folder / f"{key}.json"
        try:
            profile = from_bytes(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, InvalidInput) as error:
            _LOG.warning("the profile %s cannot be used and is measured anew: %s", path, error)
            return None
        return profile if profile.key == key and profile.machine == machine else None

    def write(self, profile: Profile) -> None:
        """Keep a profile; a disk that is full or not ours is logged, and no more."""
        if self._folder is None:
            return
        path = self._folder / f"{profile.key}.json"
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(to_bytes(profile))
            part.replace(path)
        except OSError as error:
            _LOG.warning("the profile %s cannot be kept: %s", path, error.strerror or error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
