"""The memory of processes, as Linux tells it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from salver.features.memory import processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells it")


#: In a process of its own: others come and go that share pages with that of the tests.
GROWTH = """
import mmap
from salver.features.memory import processes
MIB = 1 << 20
meter = processes.ProcessMeter()
before = meter.read(is_exact=True).server
use_of = processes.use_of
del processes.use_of
with mmap.mmap(-1, 64 * MIB) as piece:
    for page in range(0, len(piece), mmap.PAGESIZE):
        piece[page] = 1
    grown = meter.read(is_exact=False).server
assert min(grown.pss - before.pss, grown.own - before.own, grown.resident - before.resident) >= 60 * MIB
after = meter.read(is_exact=False).server
assert abs(after.peak - grown.resident) <= MIB and after.resident < after.peak - 60 * MIB  # seen or not
meter.forget_peak()
assert meter.read(is_exact=False).server.peak < grown.resident - 60 * MIB
processes.use_of = use_of
assert meter.read(is_exact=True).server.pss < grown.pss - 60 * MIB
"""


def test_growth_is_told_without_reading_all_memory_again() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_is_read_again_if_a_process_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = processes.use_of, list[int]()
    with subprocess.Popen(["sleep", "60"]) as child:

        def use_of(pid: int) -> processes.Use:
            seen.append(pid)
            if child.poll() is None:
                child.kill()
                child.wait()
            return read(pid)

        monkeypatch.setattr(processes, "use_of", use_of)
        usage = processes.ProcessMeter().read(is_exact=True)
    assert seen.count(child.pid) == 1 and seen.count(os.getpid()) == 2
    assert child.pid not in usage.hosts
