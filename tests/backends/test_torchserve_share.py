"""Does a worker take its share of the cores, and keep the memory that its next run wants?"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from salver.backends.torchserve import share
from salver.handlers import Workers

FAULTS = """
import json, resource, sys
from salver.backends.torchserve import share
if sys.argv[1] == "keep":
    share.keep_memory()
import numpy as np
def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        (np.ones(megabytes << 17), np.ones(megabytes << 17))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([faults(40) for _ in range(2)]))
"""


def faults(how: str) -> int:
    """Of twenty runs with eighty megabytes each, after a first twenty."""
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return int(json.loads(done.stdout)[1])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the C library is not Linux's")
def test_ts_b7_the_memory_of_a_run_is_there_for_the_next_one() -> None:
    assert faults("keep") < faults("leave") / 20


@pytest.mark.parametrize(
    ("least", "cores", "threads"), [(1, 8, 0), (0, 8, 0), (2, 8, 4), (3, 8, 2), (8, 8, 1), (99, 8, 1)]
)
def test_ts_b7_workers_divide_the_cores(least: int, cores: int, threads: int) -> None:
    assert share.threads_of(Workers(least, 99), cores, {}) == threads
    assert share.threads_of(Workers(least, 99), cores, {"OMP_NUM_THREADS": "3"}) == 0


@pytest.mark.parametrize(
    ("environment", "kept"),
    [({}, True), ({"OMP_NUM_THREADS": "3"}, True), ({"MALLOC_TRIM_THRESHOLD_": "1"}, False)],
)
def test_ts_b7_what_the_operator_has_set_stays(
    environment: dict[str, str], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[bool] = []
    monkeypatch.setattr(share, "keep_memory", lambda: called.append(True))
    expected = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)), **environment}
    share.take_share(Workers(2, 2), environment)
    assert environment == expected
    assert bool(called) == kept


def test_ts_b7_a_c_library_without_that_switch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share.ctypes, "CDLL", lambda name: object())
    share.keep_memory()
