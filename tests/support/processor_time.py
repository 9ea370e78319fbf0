"""Processor time of tests by folder and file (``--cpu``), with that of the servers that they start.

A worker notes what it and its children have used after each test, and the fork server what each process used
that it forked. A process that nobody waits for is not counted, and a server of a session counts for the test
that started it.
"""

import collections
import os
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import cpu_notes
import pytest

_MOST_FILES = 60


class ProcessorTimes:
    """Plugin that adds up what tests use and prints it at the end."""

    def __init__(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix="salver-cpu-")
        os.close(descriptor)
        os.environ[cpu_notes.VARIABLE] = name

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Note what the test used in this process and in children that have ended."""
        used, began = sum(os.times()[:4]), time.monotonic()
        try:
            return (yield)
        finally:
            cpu_notes.note(item.nodeid, sum(os.times()[:4]) - used, time.monotonic() - began)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print all folders and the most expensive files."""
        file = Path(os.environ[cpu_notes.VARIABLE])
        folders: dict[str, _Total] = collections.defaultdict(_Total)
        files: dict[str, _Total] = collections.defaultdict(_Total)
        for line in file.read_text().splitlines():
            test, used, took = line.rsplit("\t", 2)
            path = test.partition("::")[0]
            for total in (folders[path.rpartition("/")[0]], files[path], folders["all"]):
                total.used += float(used)
                total.took += float(took)
        terminalreporter.write_sep("=", "processor time and time, in seconds")
        for totals, most in ((folders, len(folders)), (files, _MOST_FILES)):
            ranked = sorted(totals.items(), key=lambda entry: -entry[1].used)
            for name, total in ranked[:most]:
                terminalreporter.write_line(f"{total.used:9.2f} {total.took:9.2f}  {name}")
        terminalreporter.write_line(f"each test: {file}")


class _Total:
    """Sums of a folder or file, in seconds."""

    def __init__(self) -> None:
        self.used = 0.0
        self.took = 0.0
