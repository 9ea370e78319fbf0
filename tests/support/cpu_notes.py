"""Notes of the processor time that tests use, for ``--cpu`` (:mod:`processor_time`)."""

import os
from pathlib import Path

#: Names the file of notes in the environment.
VARIABLE = "PYTEST_CPU_NOTES"


def note(test: str, used: float, took: float = 0.0) -> None:
    """Add a line for a test, in seconds, if somebody wants it."""
    if name := os.environ.get(VARIABLE):
        with Path(name).open("a") as notes:
            notes.write(f"{test}\t{used:.4f}\t{took:.4f}\n")
