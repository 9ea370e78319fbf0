"""Packing of archives with TorchServe's unmodified archivers, several at a time.

An archiver gathers its files in a folder for temporary files that is called as the model or workflow is:
two that pack an equal name there mix their files. So each gets such a folder of its own.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def run_archiver(program: str, *options: str | Path, work: Path | None = None) -> None:
    """``torch-model-archiver`` or ``torch-workflow-archiver``, in the folder ``work``.

    Raises:
        subprocess.CalledProcessError: it failed; what it said stands in the test's output.
    """
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(
            [Path(sys.executable).with_name(program), *options],
            cwd=work,
            env={**os.environ, "TMPDIR": temporary},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )
