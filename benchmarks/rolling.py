"""Are requests lost when a deployment is restarted pod by pod, behind a balancer that learns of it late?

Three servers take requests. Again and again a new one starts, and when it is ready the oldest gets SIGTERM,
as in a rolling update of Kubernetes. The balancer learns of either only seconds later: until then new
connections go to the server that stops, and none to the new one. Callers use HTTP/1.1 and HTTP/2, and keep a
connection until they are told to close it. Held to: not one failure, a refused connection included.

    python benchmarks/rolling.py                     # 100 restarts, 2 s late, drain delay of 5 s
    python benchmarks/rolling.py --delay 0           # what is lost without the delay
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from rolling_pods import rolled
from zoo import write_constant


def main() -> int:
    """Print what callers saw; 1 where one of them saw a failure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--lag", type=float, default=2.0, help="seconds after which the balancer knows")
    parser.add_argument("--delay", type=float, default=5.0, help="seconds of the servers' drain delay")
    parser.add_argument("--callers", type=int, default=2, help="of each kind")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_constant(folder / "repository", 1)
        began = time.monotonic()
        tally = asyncio.run(rolled(folder, given.restarts, given.lag, given.delay, given.callers))
    return tally.report(restarts=given.restarts, seconds=round(time.monotonic() - began, 1))


if __name__ == "__main__":
    raise SystemExit(main())
