"""Threads that are the first to read releases from a ledger, at the same moment."""

import subprocess
import sys

import pytest

#: A switch of threads after each few instructions, as a busy server has them seldom.
READ = """
import sys, threading
import msgspec
from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.record import Progress, proposed
from salver.features.releases.release_rows import release_of

release = proposed("r0", "fraud", ("1", "2"), Policy(), 0.0)
row = msgspec.structs.asdict(release) | {"state": "RUNNING", "policy": Policy().to_json()}
row |= {name: msgspec.json.encode(getattr(release, name)) for name in ("evidence", "progress")}
sys.setswitchinterval(1e-6)
together, read = threading.Barrier(6), []

def first():
    together.wait()
    read.append(release_of(row))

threads = [threading.Thread(target=first) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert [(each.evidence, each.fault) for each in read] == [(start(Policy()), "")] * 6
"""


@pytest.mark.parametrize("again", range(4))
def test_first_readers_at_the_same_moment_all_read(again: int) -> None:
    """msgspec 0.22 ended the process in about half of such moments."""
    assert subprocess.run([sys.executable, "-c", READ], timeout=60).returncode == 0
