"""How does a server go to the background, and how is it found again and stopped?

By the process id in ``.model_server.pid`` of the folder for temporary files, where TorchServe has it. A
process is signalled only when its own command line says that it is such a server of Salver's.
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
Whose = Literal["ours", "torchserve", "nobody"]


def pid_file() -> Path:
    """Where the process id stands."""
    return Path(tempfile.gettempdir()) / _NAME


def whose(pid: int) -> Whose:
    """Is it a server of ours, TorchServe itself, or something else, or nothing?"""
    command = _command(pid)
    if _JAVA in command:
        return "torchserve"
    is_salver = any("salver" in Path(word).name or word == _RUN for word in command[:3])
    return "ours" if is_salver and "torchserve" in command else "nobody"


def running() -> int | None:
    """The process id of the server of ours that was started last, if it runs.

    Raises:
        Conflict: TorchServe itself runs.
    """
    try:
        pid = int(pid_file().read_text().split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return None
    found = whose(pid)
    if found == "torchserve":
        raise Conflict(f"process {pid} is TorchServe itself", fix="Stop it with its own torchserve --stop.")
    return pid if found == "ours" else None


def launch(words: Sequence[str]) -> int:
    """Start a server that stays when this process ends; its process id."""
    command = [sys.executable, "-c", _RUN, "torchserve", "--foreground", *words]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    note(child.pid)
    child.returncode = 0  # it is nobody's to wait for
    return child.pid


def note(pid: int) -> None:
    """Write the process id down.

    Raises:
        Conflict: there is no room for it.
    """
    try:
        pid_file().write_text(str(pid))
    except OSError as error:
        raise Conflict(f"{pid_file()} cannot be written: {error.strerror}", fix="Set TMPDIR.") from error


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """While it lasts, this process is the server."""
    note(os.getpid())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if pid_file().read_text().strip() == str(os.getpid()):
                pid_file().unlink()


def stop(pid: int, patience: float = 60.0, pause: Callable[[float], None] = time.sleep) -> bool:
    """Ask it to end, and wait; False where it has not ended by then, or was not ours."""
    if whose(pid) != "ours":
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    for _ in range(int(patience / 0.1)):
        if whose(pid) != "ours":
            break
        pause(0.1)
    else:
        return False
    with contextlib.suppress(OSError):
        pid_file().unlink()
    return True


def _command(pid: int) -> list[str]:
    """Its command line; empty where there is no such process, or nothing may be known of it."""
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        if Path("/proc/self").exists():
            return []
    shown = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, text=True
    )
    return shown.stdout.split()
