"""Installation of the packages that an archive requires (TS-A8, TS-C2).

``pip`` installs them into the model's own unpacked folder, where neither other models nor the server see
them.
"""

import logging
import sys
import threading
import time
from pathlib import Path
from typing import Final

from salver.kernel.environments.installing import MOST_S, PIP_OPTIONS, run
from salver.words.errors import LoadFailed

_LOG: Final = logging.getLogger("salver.requirements")


def install(folder: Path, file: str, stop: threading.Event, most_s: float = MOST_S) -> None:
    """Install the requirements in a file of a folder into that folder. Blocking.

    Args:
        stop: Set to cancel.

    Raises:
        LoadFailed: it failed; the reason is the last output of ``pip``.
    """
    if not (folder / file).is_file():
        raise LoadFailed(f"there is no '{file}', the requirementsFile of the manifest")
    options = [*PIP_OPTIONS, "--upgrade", "--target", str(folder)]
    _LOG.info("installing %s", folder / file)
    began = time.monotonic()
    run([sys.executable, "-m", "pip", "install", *options, "-r", file], folder, file, stop, most_s)
    _LOG.info("installed in %.1f s", time.monotonic() - began)
