"""Weights that the processes of a machine share, mapped from their file instead of copied.

Backends that can do so take the option ``share_weights`` and pass the loaded model through :func:`shared`,
which makes sure that something is mapped and watches the files. Only in a host process: a mapped file that is
cut short ends the process that touches it.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from salver.backends.loading import choice_of
from salver.backends.protocol import LoadOptions, RunnableModel
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.tensor import Array

#: Name of the option.
SHARE: Final = "share_weights"
_CHANGED: Final = 3  # exit status of a process whose mapped files have changed


def wants_sharing(
    wish: dict[str, str], manifest: Manifest, options: LoadOptions, *others: str, default: str = "false"
) -> str:
    """Return the value of the option ``share_weights``; empty = the weights are copied.

    Args:
        others: Values that the backend knows besides ``true`` and ``false``.

    Raises:
        LoadFailed: its value is unknown, or the model would run in the server's own process.
    """
    choice = choice_of({SHARE: default} | wish, SHARE, ("false", "true", *others))
    if choice == "false":
        return ""
    if not options.own_process:
        raise LoadFailed(
            f"model '{manifest.id.name}' shares its weights, which needs a process of its own",
            field=f"options.{SHARE}",
            fix='Set instances.runner to "process".',
        )
    return choice


def shared(model: RunnableModel, manifest: Manifest, fix: str) -> "SharedModel":
    """Return a loaded model that watches the files that it has mapped.

    Args:
        fix: How to make the artefact one whose weights can be shared.

    Raises:
        LoadFailed: it has mapped none of its files.
    """
    files = mapped_files(manifest.path)
    if not files:
        raise LoadFailed(
            f"{manifest.path} cannot share its weights: nothing of it is mapped",
            field=f"options.{SHARE}",
            fix=fix,
        )
    # Loading made copies that are free by now.
    ctypes.CDLL(None).malloc_trim(0)
    return SharedModel(model, files)


def mapped_files(path: Path) -> tuple[Path, ...]:
    """Return the files of an artefact, and those beside it, that this process has mapped."""
    folder = str((path if path.is_dir() else path.parent).resolve()) + os.sep
    found = set()
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        _, _, file = line.partition(folder)
        if file and not file.endswith(".so"):
            found.add(Path(folder + file))
    return tuple(sorted(found))


class SharedModel:
    """A loaded model whose weights are mapped; it ends its process once their files have changed.

    The process is started again and loads what is there now. A file that was replaced, not overwritten, has
    not changed: the mapping keeps the old one.
    """

    def __init__(self, model: RunnableModel, files: Iterable[Path]) -> None:
        self.signature = model.signature
        self._model = model
        self._files: list[tuple[int, Path, tuple[int, int]]] = []
        for file in files:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            self._files.append((descriptor, file, _state(descriptor)))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        for descriptor, file, state in self._files:
            if _state(descriptor) != state:
                # Whatever of it is in memory already is a mixture of two models.
                sys.stderr.write(f"{file} was overwritten while its weights were mapped\n")
                sys.stderr.flush()
                os._exit(_CHANGED)
        return self._model.run(inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._model.close()
        for descriptor, _, _ in self._files:
            os.close(descriptor)
        self._files = []


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns
