"""Uploads: files and configurations of load requests, in place of a model's own.

Each request's files are in a private temporary folder until they are discarded. Names are untrusted: a path
must stay in the folder, and the model's name is not used as a path.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from salver.stores import StoreFailed
from salver.stores.protocol import checked
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput, LoadFailed, TooLarge

_MOST_FILES: Final = 1_000
_MOST_NAME: Final = 255
#: Characters of a configuration; some checks of its lists take quadratic time.
_MOST_CONFIG: Final = 1 << 20
_MOST_PARTS: Final = 16
_NONE: Final[Mapping[str, Path]] = {}
#: Most bytes of the uploads of all models.
MOST_BYTES: Final = 4 << 30


class Upload:
    """Configuration, and possibly a folder, in place of a model's own.

    Attributes:
        config: Model configuration in the load request's form.
        folder: Resolved folder of the model; None = its own.
        bytes: Bytes written into the folder.
        members: Folders of models that were uploaded with it, by name.
        is_trusted: The platform chose the content, which may have any format.
    """

    def __init__(
        self,
        config: str,
        place: "tempfile.TemporaryDirectory[str] | None" = None,
        bytes: int = 0,
        *,
        folder: Path | None = None,
        members: Mapping[str, Path] = _NONE,
        is_trusted: bool = False,
    ) -> None:
        self.config = config
        self.folder = Path(place.name).resolve() if place else folder
        self.bytes = bytes
        self.members = members
        self.is_trusted = is_trusted
        self._place = place

    def __repr__(self) -> str:
        return f"<Upload {len(self.config)} characters, {self.bytes} bytes in {self.folder}>"

    def discard(self) -> None:
        """Remove the files. Blocking; a second call does nothing."""
        if self._place is not None:
            self._place.cleanup()


def bring(name: str, order: LoadOrder, room: int = MOST_BYTES) -> Upload:
    """Write the files of a load request into a folder. Blocking.

    Args:
        name: Name of the model.
        room: Most bytes of all files.

    Raises:
        InvalidInput: a name is not allowed.
        TooLarge: too many files, or the files or the configuration are too large.
        LoadFailed: the files cannot be written.
    """
    if len(order.config) > _MOST_CONFIG:
        raise TooLarge(
            f"the configuration of model '{name}' has {len(order.config)} characters; at most {_MOST_CONFIG} "
            "are taken from a request",
            fix="Put the model into the repository.",
        )
    if not order.files:
        return Upload(order.config)
    check_name(name)
    size = sum(map(len, order.files.values()))
    if len(order.files) > _MOST_FILES:
        raise TooLarge(f"{len(order.files)} files for model '{name}'; at most {_MOST_FILES} are taken")
    if size > room:
        raise TooLarge(
            f"the files for model '{name}' have {size} bytes, and there is room for {room}",
            fix="Unload models that came by request, or put the files into the repository.",
        )
    for path in order.files:
        _check_path(path)
    place = tempfile.TemporaryDirectory(prefix="salver-model-", ignore_cleanup_errors=True)
    try:
        for path, content in order.files.items():
            file = Path(place.name, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    except OSError as error:  # a file in place of a folder, or a full disk
        place.cleanup()
        reason = error.strerror or error
        raise LoadFailed(f"the files for model '{name}' cannot be written: '{path}': {reason}") from error
    return Upload(order.config, place, size)


def check_name(name: str) -> None:
    """Check a model's name that does not come from a file system.

    Raises:
        InvalidInput: the name cannot be part of a protocol's paths.
    """
    is_fine = name.isprintable() and not name.startswith(".") and not set(name) & {"/", "\\"}
    if not is_fine or not 0 < len(name) <= _MOST_NAME:
        raise InvalidInput(
            f"{name[:_MOST_NAME]!r} cannot be a model's name",
            fix="Use a name without '/', '\\' or control characters, not beginning with '.'.",
        )


def _check_path(path: str) -> None:
    parts = path.split("/")
    try:
        is_fine = checked(path).isprintable()
        is_fine = is_fine and all(0 < len(p.encode()) <= _MOST_NAME and p != "." for p in parts)
    except (StoreFailed, UnicodeEncodeError):
        is_fine = False
    if not is_fine or len(parts) > _MOST_PARTS:
        raise InvalidInput(
            f"the file {path[:_MOST_NAME]!r} cannot be written below the model's folder",
            field=f"parameters.file:{path[:_MOST_NAME]}",
            fix="Name it <version>/<file>, relative and without '..'.",
        )
