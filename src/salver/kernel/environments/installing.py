"""Making of environments with uv or pip, from the index that the user's configuration names."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from salver.kernel.environments.recipe import OWN_PYTHON, REQUIREMENTS, UV_LOCK, Recipe
from salver.stores.unpack import unpack
from salver.words.errors import LoadFailed

_LOG = logging.getLogger("salver.environments")
#: Maximum seconds of an installation.
MOST_S: Final = 1800.0
_LOOK_S: Final = 0.1
_MOST_OUTPUT: Final = 4000  # bytes of output to report
PIP_OPTIONS: Final = (
    "--no-input",
    "--progress-bar=off",
    "--disable-pip-version-check",
    "--no-warn-script-location",
)


def make(recipe: Recipe, folder: Path, stop: threading.Event, lock: int) -> None:
    """Make an environment in an empty folder. Blocking.

    Args:
        stop: Set to cancel.
        lock: Descriptor that installers hold open until they end.

    Raises:
        LoadFailed: it failed; the reason is the installer's last output.
    """
    if recipe.kind == "archive":
        _LOG.info("unpacking %s", recipe.path)
        unpack(recipe.path, folder)
        unpacked = folder / "bin" / "conda-unpack"
        if unpacked.is_file():  # writes the folder's path into files that name the packer's
            run([str(python_of(folder)), str(unpacked)], folder, recipe.path.name, stop, held=(lock,))
        return
    began, uv = time.monotonic(), _uv()
    _LOG.info("making an environment of %s", recipe.path)
    with tempfile.TemporaryDirectory() as work:
        for name, content in recipe.files.items():
            Path(work, name).write_bytes(content)
        name = recipe.path.name
        if UV_LOCK in recipe.files:
            if not uv:
                raise LoadFailed(f"{recipe.path} needs uv", fix="Install it: pip install uv")
            export = ("export", "--frozen", "--no-emit-project", "--no-dev", "--quiet", "-o", REQUIREMENTS)
            run([uv, *export], Path(work), name, stop)
        run([*_venv(recipe.python, uv), str(folder)], Path(work), name, stop, held=(lock,))
        install(python_of(folder), ["-r", REQUIREMENTS], Path(work), name, stop, lock)
    _LOG.info("made an environment of %s in %.1f s", recipe.path, time.monotonic() - began)


def install(
    python: Path, wanted: Sequence[str], folder: Path, what: str, stop: threading.Event, lock: int
) -> None:
    """Install packages for an interpreter, with uv or with this Python's pip. Raises LoadFailed."""
    if uv := _uv():
        command = [uv, "pip", "install", "--python", str(python)]
    else:
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", *PIP_OPTIONS]
    run([*command, *wanted], folder, what, stop, held=(lock,))


def python_of(folder: Path) -> Path:
    """Return the interpreter of an environment. Raises LoadFailed."""
    for name in ("python", "python3"):
        if os.access(folder / "bin" / name, os.X_OK):
            return folder / "bin" / name
    raise LoadFailed(
        f"the environment {folder} has no bin/python", fix="Pack it with conda-pack or venv-pack."
    )


def _uv() -> str:
    """Return the path of uv; empty if it is not installed."""
    return (
        shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        or ""
    )


def _venv(python: str, uv: str) -> list[str]:
    """Return the command that makes an environment without packages."""
    program: str | None = sys.executable
    if python != OWN_PYTHON:
        program = shutil.which(python if "/" in python else f"python{python}")
    if uv:  # knows Pythons that are not on the path, too
        return [uv, "venv", "--no-project", "--quiet", "--python", program or python]
    if program is None:
        raise LoadFailed(
            f"there is no Python {python} on this machine",
            field="environment.python",
            fix="Install it or uv, or write the path of an interpreter.",
        )
    return [program, "-m", "venv", "--without-pip"]


def run(
    command: Sequence[str],
    folder: Path,
    what: str,
    stop: threading.Event,
    most_s: float = MOST_S,
    held: Sequence[int] = (),
) -> None:
    """Run an installer in a folder, and log what it says. Blocking.

    Args:
        what: File that it installs, for messages.
        stop: Set to cancel.
        held: Descriptors that it inherits.

    Raises:
        LoadFailed: it failed; the reason is its last output.
    """
    end = time.monotonic() + most_s
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=held,
            )
        except OSError as error:
            raise LoadFailed(
                f"'{what}' cannot be installed: {command[0]}: {error.strerror or error}"
            ) from error
        why = _watch(process, output, what, stop, end)
        output.seek(max(0, output.seek(0, os.SEEK_END) - _MOST_OUTPUT))
        text = output.read(_MOST_OUTPUT).decode(errors="replace").strip()
    if why or process.returncode:
        reason = why.format(most_s) or text or f"the installer ended with {process.returncode}"
        raise LoadFailed(f"'{what}' cannot be installed: {reason}")


def _watch(
    process: "subprocess.Popen[bytes]", output: IO[bytes], what: str, stop: threading.Event, end: float
) -> str:
    """Log the output until the process ends; return why it was killed, or nothing."""
    told = 0
    while True:
        is_over = process.poll() is not None
        told = _log_lines(output, told, what)
        if is_over:
            return ""
        if not stop.wait(_LOOK_S) and time.monotonic() < end:
            continue
        os.killpg(process.pid, signal.SIGKILL)  # pip has processes of its own
        process.wait()
        if stop.is_set():
            return "it was cancelled"
        return "it takes longer than {:g} s"


def _log_lines(output: IO[bytes], told: int, what: str) -> int:
    """Log the whole lines after a position of the output; return the position after them."""
    found = os.pread(output.fileno(), 1 << 16, told)
    lines, newline, _ = found.rpartition(b"\n")
    if not newline:
        return told
    for line in lines.decode(errors="replace").splitlines():
        _LOG.info("%s: %s", what, line)
    return told + len(lines) + 1
