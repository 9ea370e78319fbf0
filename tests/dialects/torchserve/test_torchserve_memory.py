"""Memory that a worker keeps for its next run."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from salver.dialects.torchserve.backend import memory

FAULTS = """
import json, resource, sys
from salver.dialects.torchserve.backend import memory
if sys.argv[1] == "keep":
    memory.keep_memory({})
import numpy as np
def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        (np.ones(megabytes << 17), np.ones(megabytes << 17))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([faults(40) for _ in range(2)]))
"""


def faults(how: str) -> int:
    """Return the page faults of twenty runs with 80 MB each, after twenty others."""
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return int(json.loads(done.stdout)[1])


IDLE = """
import json, sys
from pathlib import Path
from salver.dialects.torchserve.backend import memory
environment = {"MALLOC_TRIM_THRESHOLD_": "1"} if sys.argv[1] == "chosen" else {}
memory.keep_memory({})
import numpy as np
def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
before = megabytes()
(np.ones(6 << 20), np.ones(6 << 20))
kept = megabytes() - before
memory.give_back(environment)
print(json.dumps([kept, megabytes() - before]))
"""


@pytest.mark.clause("TS-B7")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the C library is not Linux's")
@pytest.mark.parametrize(("how", "is_kept"), [("usual", False), ("chosen", True)])
def test_what_is_kept_goes_back_when_nothing_is_asked(how: str, is_kept: bool) -> None:
    done = subprocess.run([sys.executable, "-c", IDLE, how], capture_output=True, check=True, timeout=60)
    kept, left = json.loads(done.stdout)
    assert kept > 80
    assert left > 80 if is_kept else left < 24


@pytest.mark.clause("TS-B7")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the C library is not Linux's")
def test_the_memory_of_a_run_is_there_for_the_next_one() -> None:
    assert faults("keep") < faults("leave") / 20


@pytest.mark.clause("TS-B7")
@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, [(-1, 256 << 20), (-3, 64 << 20)]),
        ({"MALLOC_TRIM_THRESHOLD_": "1"}, []),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, []),
    ],
)
def test_what_the_operator_has_set_stays(
    environment: dict[str, str], told: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: seen.append((name, value)))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    memory.keep_memory(environment)
    assert seen == told


@pytest.mark.clause("TS-B7")
def test_a_c_library_without_that_switch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_memory({})
    memory.give_back({})
