"""How do the packages that an archive requires come to lie beside it (TS-A8, TS-C2)?

``pip`` installs them into the model's own unpacked folder, where no other model and not the server sees them.
It may take its time, but not for ever. Whether it may be done at all is not known here.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Final

from salver.words.errors import LoadFailed

_LOG = logging.getLogger("salver.requirements")
#: So long an installation may take.
MOST_S: Final = 1800.0
_LOOK_S: Final = 0.1
_TOLD: Final = 4000  # characters of what it has said
_OPTIONS: Final = ("--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--upgrade")


def install(folder: Path, file: str, stop: threading.Event, most_s: float = MOST_S) -> None:
    """Install what a file of the folder requires into the folder. Blocking.

    Args:
        stop: Set to give up.

    Raises:
        LoadFailed: it could not be done; what ``pip`` said last is the reason.
    """
    if not (folder / file).is_file():
        raise LoadFailed(f"there is no '{file}', which the manifest names as its requirementsFile")
    command = [sys.executable, "-m", "pip", "install", *_OPTIONS, "--target", str(folder), "-r", file]
    _LOG.info("installing what %s requires", folder / file)
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise LoadFailed(f"'{file}' cannot be installed: pip: {error.strerror or error}") from error
        why = _watch(process, stop, began + most_s)
        text = _end_of(said)
    if why or process.returncode:
        reason = why.format(most_s) or text or f"pip ended with {process.returncode}"
        raise LoadFailed(f"'{file}' cannot be installed: {reason}")
    _LOG.info("installed in %.1f s: %s", time.monotonic() - began, text)


def _watch(process: "subprocess.Popen[bytes]", stop: threading.Event, end: float) -> str:
    """Until it has ended: why it was ended, or empty."""
    while True:
        try:
            process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            if not stop.is_set() and time.monotonic() < end:
                continue
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "it was given up" if stop.is_set() else "it takes longer than {:g} s"
        return ""


def _end_of(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - _TOLD))
    return said.read(_TOLD).decode(errors="replace").strip()
