"""Folders with several holders.

A folder is made for its first holder while the others wait, and removed after the last one. The caller
fills it.
"""

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path


class SharedFolder:
    """A folder with holders.

    Attributes:
        folder: The folder, removed after its last holder.
        root: The path in it that holders use.
    """

    def __init__(self, key: str, folder: Path) -> None:
        self.key = key
        self.folder = folder
        self.root = folder
        self.holders = 0
        self.is_whole = False
        self.turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<SharedFolder {self.root}, {self.holders} holders>"


class SharedFolders:
    """Folders by keys that identify their content. Any thread may call."""

    def __init__(self) -> None:
        self._held: dict[str, SharedFolder] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def hold(
        self, key: str, parent: Callable[[], Path], fill: Callable[[SharedFolder], None]
    ) -> SharedFolder:
        """Return the complete folder of a key; to be released once. Blocking.

        Args:
            parent: Returns where to make it; never called concurrently.
            fill: Makes the folder and its content; may set ``root``. If it raises, the next holder tries.
        """
        held = self._entered(key, parent)
        try:
            with held.turn:
                if not held.is_whole:
                    shutil.rmtree(held.folder, ignore_errors=True)  # the holder that we waited for has failed
                    fill(held)
                    held.is_whole = True
        except BaseException:
            self.release(held)
            raise
        return held

    def release(self, held: SharedFolder) -> None:
        """Give up one hold. Blocking."""
        with self._lock:
            held.holders -= 1
            if held.holders:
                return
            del self._held[held.key]
        shutil.rmtree(held.folder, ignore_errors=True)

    def _entered(self, key: str, parent: Callable[[], Path]) -> SharedFolder:
        with self._lock:
            held = self._held.get(key)
            if held is None:
                # another folder may have the name until it is removed
                held = self._held[key] = SharedFolder(key, parent() / f"{key}-{next(self._numbers)}")
            held.holders += 1
            return held
