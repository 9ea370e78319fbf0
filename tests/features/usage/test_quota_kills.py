"""A server is killed again and again: its quotas go on where they were."""

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import migrated_ledger
from soaking import size

MOST = 4000
#: For each line, a fork runs requests until it is killed or refused. It writes a byte for each that it
#: accepts. A process of its own for each would import for longer than it lives.
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from accounting import ask, close, open_accounts

url, folder, most = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

async def main(name):
    accounts = await open_accounts(url, name, folder, lambda: 1e9)
    quotas = accounts.quotas("k", (most + "/day", "10 rows/month"))
    while await ask(quotas):
        os.write(1, b".")
    await close(accounts)
    os.write(1, b"!")

for line in sys.stdin:
    if not (child := os.fork()):
        asyncio.run(main(line.strip()))
        os._exit(0)
    os.write(1, b"%d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"\\n")
"""


@contextlib.contextmanager
def program(url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, url, str(folder), str(MOST)]
    with subprocess.Popen(
        command, env=paths, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


@pytest.mark.soak
def test_kills_cost_what_was_in_flight(tmp_path: Path) -> None:
    """Never more than the quota, and less by at most the one request that was in flight at each."""
    kills, chance = size(100, 12), random.Random(5)
    url = migrated_ledger("sqlite", tmp_path)
    accepted = 0
    with program(url, tmp_path) as process:
        assert process.stdin is not None and process.stdout is not None
        for life in range(kills + 1):
            process.stdin.write(b"run-%d\n" % life)
            pid, lives = int(process.stdout.readline()), 0
            until = chance.randrange(1, 2 * MOST // size(120, 20)) if life < kills else MOST + 1
            while lives < until and process.stdout.read(1) == b".":
                lives += 1
            if life < kills:
                os.kill(pid, signal.SIGKILL)
            accepted += lives + process.stdout.readline().count(b".")
        assert MOST - kills <= accepted <= MOST
    assert accepted > MOST // 2
    assert not list(tmp_path.glob("*.quotas")), "the last one has stopped in peace"
