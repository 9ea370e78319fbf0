"""Do callers lose a request while servers are drained and started again?

Three servers, of which one after the other gets SIGTERM under load, over HTTP/1.1, HTTP/2, gRPC and streams
of gRPC's; callers go elsewhere when they are told to, or where a connection is refused. Held to: not one
failure.

    python benchmarks/drains.py               # 100 drains, 100,000 requests
    python benchmarks/drains.py --drains 4 --requests 4000
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from drain_callers import CALLERS, Waiting, drained
from zoo import write_constant

_SERVERS = 3


def main() -> int:
    """Print what callers saw; 1 where one of them saw a failure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--drains", type=int, default=100)
    parser.add_argument("--requests", type=int, default=100_000, help="at least, of all kinds together")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds of the servers' drain delay")
    parser.add_argument("--callers", type=int, default=4, help="of each kind")
    given = parser.parse_args()
    each = -(-given.requests // given.drains // len(CALLERS))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_constant(folder / "repository", 1)
        servers = [
            stack.enter_context(Waiting(folder / "repository", folder / f"log{n}", given.delay))
            for n in range(_SERVERS)
        ]
        for server in servers:
            server.wait_ready()
        began = time.monotonic()
        kinds, per_drain = dict.fromkeys(CALLERS, given.callers), dict.fromkeys(CALLERS, each)
        tally = asyncio.run(drained(servers, given.drains, kinds, per_drain))
        seconds = time.monotonic() - began
    return tally.report(drains=given.drains, seconds=round(seconds, 1), told_to_close=dict(tally.moved))


if __name__ == "__main__":
    raise SystemExit(main())
