"""Which folders are held by several, and when do they go?

A folder is made once for all who hold it, the others waiting meanwhile, and removed when the last one lets
go. What is put into it, its owner says.
"""

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path


class Held:
    """A folder, as long as somebody holds it.

    Attributes:
        folder: Removed with its last holder.
        root: What its holders want of it, in it.
    """

    def __init__(self, key: str, folder: Path) -> None:
        self.key = key
        self.folder = folder
        self.root = folder
        self.holders = 0
        self.is_whole = False
        self.turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<Held {self.root}, {self.holders} holders>"


class Holdings:
    """Such folders, by keys that say what is in them. Any thread may call."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, key: str, parent: Callable[[], Path], fill: Callable[[Held], None]) -> Held:
        """The folder of that key, whole; to be released once. Blocking.

        Args:
            parent: Where it is to be; called by one at a time.
            fill: Makes it and what is in it; may say its ``root``. If it raises, the next one tries again.
        """
        held = self._entered(key, parent)
        try:
            with held.turn:
                if not held.is_whole:
                    shutil.rmtree(held.folder, ignore_errors=True)  # of one who waited here, and failed
                    fill(held)
                    held.is_whole = True
        except BaseException:
            self.release(held)
            raise
        return held

    def release(self, held: Held) -> None:
        """One of its holders lets go. Blocking."""
        with self._lock:
            held.holders -= 1
            if held.holders:
                return
            del self._held[held.key]
        shutil.rmtree(held.folder, ignore_errors=True)

    def _entered(self, key: str, parent: Callable[[], Path]) -> Held:
        with self._lock:
            held = self._held.get(key)
            if held is None:
                # one that is about to be removed may have the name already
                held = self._held[key] = Held(key, parent() / f"{key}-{next(self._numbers)}")
            held.holders += 1
            return held
