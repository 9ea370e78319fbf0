"""Staging of local files in a folder that is imported.

Files are hard-linked, or copied where that fails; symbolic links are followed within the source's own folder.
Blocking.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from salver.stores import StoreFailed
from salver.words.errors import InvalidInput

_MOST_FILES: Final = 20_000


def stage(source: Path, target: Path, root: Path) -> None:
    """Put a file, or the content of a folder, into ``target``.

    Args:
        root: The source's own folder.

    Raises:
        InvalidInput: a link leads out of it or in circles, something is no file, or there are too many.
        StoreFailed: it cannot be read or written.
    """
    owned = Path(os.path.realpath(root))
    try:
        if not source.is_dir():
            _stage(source, target / source.name if target.is_dir() else target, owned)
            return
        count = 0
        for folder, folders, files in os.walk(source, onerror=_fail):
            here = target / Path(folder).relative_to(source)
            here.mkdir(exist_ok=True)
            folders[:] = [name for name in folders if name not in (".git", ".cache")]
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    raise InvalidInput(f"{Path(folder) / name} is a link to a folder", fix="Copy it.")
            for name in files:
                count += 1
                if count > _MOST_FILES:
                    raise InvalidInput(
                        f"{source} holds more than {_MOST_FILES} files", fix="Name the model alone."
                    )
                _stage(Path(folder) / name, here / name, owned)
    except OSError as error:
        raise StoreFailed(f"{error.filename or source} cannot be read: {error.strerror or error}") from error


def _fail(error: OSError) -> None:
    raise error  # otherwise unreadable folders would be left out silently


def _stage(source: Path, target: Path, owned: Path) -> None:
    real = Path(os.path.realpath(source))
    if not real.is_relative_to(owned):
        raise InvalidInput(f"{source} is a link that leads out of {owned}, to {real}")
    if not real.is_file():
        raise InvalidInput(f"{source} is not a file, or is a dangling link")
    try:
        os.link(real, target)
    except OSError:  # another disk, or another user's file
        shutil.copyfile(real, target)
