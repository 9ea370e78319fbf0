"""Servers in the background: start, find and stop them.

The process id is in ``.model_server.pid`` in the folder for temporary files, as with TorchServe. A process is
signalled only if its command line shows that it is such a server.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from salver.words.errors import Conflict

_NAME: Final = ".model_server.pid"
_RUN: Final = "from salver.cli import main; raise SystemExit(main())"
_JAVA: Final = "org.pytorch.serve.ModelServer"
Owner = Literal["ours", "torchserve", "nobody"]


def pid_file() -> Path:
    """Return the file with the process id."""
    return Path(tempfile.gettempdir()) / _NAME


def owner_of(pid: int) -> Owner:
    """Return what runs under a process id; ``nobody`` = nothing, or another program."""
    command = _command(pid)
    if _JAVA in command:
        return "torchserve"
    is_salver = any("salver" in Path(word).name or word == _RUN for word in command[:3])
    if is_salver and "torchserve" in command:
        return "ours"
    return "nobody"


def running() -> int | None:
    """Return the process id of the server that was started last; None if it does not run.

    Raises:
        Conflict: TorchServe itself runs.
    """
    try:
        pid = int(pid_file().read_text().split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return None
    found = owner_of(pid)
    if found == "torchserve":
        raise Conflict(f"process {pid} is TorchServe itself", fix="Stop it with its own torchserve --stop.")
    return pid if found == "ours" else None


def launch(words: Sequence[str]) -> int:
    """Start a server that outlives this process; return its process id."""
    command = [sys.executable, "-c", _RUN, "torchserve", "--foreground", *words]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    note(child.pid)
    child.returncode = 0  # no process waits for it
    return child.pid


def note(pid: int) -> None:
    """Write the file with the process id.

    Raises:
        Conflict: it cannot be written.
    """
    try:
        pid_file().write_text(str(pid))
    except OSError as error:
        raise Conflict(f"{pid_file()} cannot be written: {error.strerror}", fix="Set TMPDIR.") from error


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Record this process as the server within the context."""
    note(os.getpid())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if pid_file().read_text().strip() == str(os.getpid()):
                pid_file().unlink()


def stop(pid: int, patience: float = 60.0, pause: Callable[[float], None] = time.sleep) -> bool:
    """Stop a server and wait; return False if it still runs, or is no server of Salver's."""
    if owner_of(pid) != "ours":
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    for _ in range(int(patience / 0.1)):
        if owner_of(pid) != "ours":
            break
        pause(0.1)
    else:
        return False
    with contextlib.suppress(OSError):
        pid_file().unlink()
    return True


def _command(pid: int) -> list[str]:
    """Return a process's command line; empty if there is none, or it is hidden."""
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        if Path("/proc/self").exists():
            return []
    shown = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, text=True
    )
    return shown.stdout.split()
