"""Environments of a server's models: which may be used, and the interpreter of each."""

import asyncio
import contextlib
import hashlib
import threading
from pathlib import Path
from typing import Final

import msgspec

from salver.kernel.engine.spawn import Interpreter
from salver.kernel.environments.cache import EnvironmentCache, EnvironmentLease
from salver.kernel.environments.installing import install, make, python_of
from salver.kernel.environments.interpreter import Python, probe, variables
from salver.kernel.environments.recipe import Recipe, recipe_of
from salver.stores.user_folders import user_folder
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed

#: Bytes of one server's environments beyond which those that no server uses are removed.
MOST_BYTES: Final = 32 << 30


def cache_folder() -> Path:
    """Return the folder of environments. Raises RuntimeError without a home."""
    return user_folder("XDG_DATA_HOME", ".local/share") / "environments"


class Environments:
    """Opens environments.

    Args:
        allows_all: The operator allows environments of all models; otherwise only of those that are programs
            themselves.
    """

    def __init__(self, cache: EnvironmentCache, *, allows_all: bool) -> None:
        self._cache = cache
        self._allows_all = allows_all
        self._digests: dict[tuple[Path, int, int], str] = {}  # of archives, which take long to read

    def __repr__(self) -> str:
        return f"<Environments in {self._cache!r}>"

    async def open(self, manifest: Manifest, *, is_program: bool) -> Interpreter:
        """Return the interpreter of a model's environment, to be released once.

        Raises:
            LoadFailed: it is not allowed, cannot be made, or lacks what host processes need.
        """
        name = manifest.id.name
        if not (self._allows_all or is_program):
            raise LoadFailed(
                f"model '{name}' has an environment of its own, and making or using one runs code that its "
                "author chose",
                field="environment",
                fix="If you trust it, start with --allow-environments.",
            )
        stop = threading.Event()
        opening = asyncio.create_task(asyncio.to_thread(self._open, manifest, stop))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(LoadFailed):
                await (await opening).release()
            raise
        except LoadFailed as error:
            raise LoadFailed(f"model '{name}': {error.message}", field=error.field, fix=error.fix) from error

    def _open(self, manifest: Manifest, stop: threading.Event) -> Interpreter:
        recipe = recipe_of(manifest)
        with contextlib.ExitStack() as undo:
            root = recipe.path
            if recipe.kind != "folder":
                root = self._hold(recipe, undo, stop)
            python = python_of(root)
            support = self._support(probe(python, root), python, undo, stop)
            held = undo.pop_all()

        async def release() -> None:
            held.close()

        return Interpreter(str(python), variables(root, support), release)

    def _hold(self, recipe: Recipe, undo: contextlib.ExitStack, stop: threading.Event) -> Path:
        is_made = False

        def fill(folder: Path, lock: int) -> None:
            nonlocal is_made
            is_made = True
            make(recipe, folder, stop, lock)

        held = self._cache.hold(self._digest(recipe), str(recipe.path), recipe.python, fill, stop)
        undo.callback(held.release)
        if is_made:
            self._cache.prune(MOST_BYTES)
        return held.folder

    def _digest(self, recipe: Recipe) -> str:
        if recipe.kind != "archive":
            return recipe.digest()
        found = recipe.path.stat()
        key = recipe.path, found.st_mtime_ns, found.st_size
        if key not in self._digests:
            self._digests[key] = recipe.digest()
        return self._digests[key]

    def _support(
        self, found: Python, python: Path, undo: contextlib.ExitStack, stop: threading.Event
    ) -> Path:
        """Return a folder with what is lent to an environment."""
        links = found.links()
        lacks_msgspec = "msgspec" not in found.has and "msgspec" not in links

        def fill(folder: Path, lock: int) -> None:
            for name, target in links.items():
                (folder / name).symlink_to(target)
            if lacks_msgspec:
                wanted = f"msgspec=={msgspec.__version__}"
                install(python, ["--no-deps", "--target", str(folder), wanted], folder, wanted, stop, lock)

        text = repr((sorted(links.items()), lacks_msgspec and (found.tag, msgspec.__version__)))
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        held: EnvironmentLease = self._cache.hold(digest, "salver", found.text, fill, stop)
        undo.callback(held.release)
        return held.folder
