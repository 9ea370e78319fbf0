"""Installation of the packages that an archive requires (TS-A8, TS-C2).

``pip`` installs them into the model's own unpacked folder, where neither other models nor the server see
them.
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
from typing import Final

from salver.words.errors import LoadFailed

_LOG = logging.getLogger("salver.requirements")
#: Maximum seconds of an installation.
MOST_S: Final = 1800.0
_LOOK_S: Final = 0.1
_MOST_OUTPUT: Final = 4000  # bytes of output to report
_OPTIONS: Final = ("--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--upgrade")


def install(folder: Path, file: str, stop: threading.Event, most_s: float = MOST_S) -> None:
    """Install the requirements in a file of a folder into that folder. Blocking.

    Args:
        stop: Set to cancel.

    Raises:
        LoadFailed: it failed; the reason is the last output of ``pip``.
    """
    if not (folder / file).is_file():
        raise LoadFailed(f"there is no '{file}', the requirementsFile of the manifest")
    command = [sys.executable, "-m", "pip", "install", *_OPTIONS, "--target", str(folder), "-r", file]
    _LOG.info("installing %s", folder / file)
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise LoadFailed(f"'{file}' cannot be installed: pip: {error.strerror or error}") from error
        why = _watch(process, stop, began + most_s)
        output.seek(max(0, output.seek(0, os.SEEK_END) - _MOST_OUTPUT))
        text = output.read(_MOST_OUTPUT).decode(errors="replace").strip()
    if why or process.returncode:
        reason = why.format(most_s) or text or f"pip ended with {process.returncode}"
        raise LoadFailed(f"'{file}' cannot be installed: {reason}")
    _LOG.info("installed in %.1f s: %s", time.monotonic() - began, text)


def _watch(process: "subprocess.Popen[bytes]", stop: threading.Event, end: float) -> str:
    """Wait for the end of the process; return why it was killed, or nothing."""
    while True:
        try:
            process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            if not stop.is_set() and time.monotonic() < end:
                continue
            os.killpg(process.pid, signal.SIGKILL)  # pip has processes of its own
            process.wait()
            if stop.is_set():
                return "it was cancelled"
            return "it takes longer than {:g} s"
        return ""
