"""What do callers notice while one of three instances fails, or all do?

    python benchmarks/chaos.py [--only killed,slow] [--seconds 8] [--publish]

Three Salvers behind one, with the faults of ``tests/support/faulty_instances.py``. Their model sleeps, so
that 60 % of the capacity of three, as a Poisson process, needs half a core. Each fault begins after quiet
seconds, which it is compared with, and ends again. A second counts as bad if more than 1 % of its requests
failed, or took longer than 1.5 times the quiet p99.

Exits with 1 if a floor is missed.
"""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import host
import numpy as np
import openloop
import page
from models import ROOT
from openloop import Outcome, Question, Reply

sys.path.insert(0, str(ROOT / "tests" / "support"))
from faulty_instances import (
    CAPACITY,
    FAULTS,
    LETTERS,
    NAME,
    OUTAGES,
    STREAM_BODY,
    STREAM_FAULTS,
    STREAM_PATH,
    STREAMED,
    Cluster,
    request,
)

PAGE = ROOT / "docs" / "explanation" / "instances-under-faults.md"
LOAD = 0.6
QUIET_S, AFTER_S, RESTART_S = 4.0, 5.0, 10.0
#: Seconds after which a caller hangs up; after which a slow instance must no longer be noticed.
PATIENCE_S, SETTLED_S = 3.0, 5.0
MOST_SLOWER, MOST_SENT, MOST_RETURN_S = 1.5, 1.1, 1.0
VALUES = (1.0, 2.0, 5.0)
QUESTIONS = [
    Question(f"/v2/models/{NAME}/infer", request(value), {"content-type": "application/json"})
    for value in VALUES
]
#: Streams a second. They are answered with 200, and one that breaks off ends with an error.
STREAMS_S = 30.0
STREAMS = [Question(STREAM_PATH, STREAM_BODY, {"content-type": "application/json"})]
ERROR = b'"error"'


def is_right(name: str, kind: int, reply: Reply) -> bool:
    """Return whether an answer is twice its question, or a stream has all of its pieces."""
    if name in STREAM_FAULTS:
        return "".join(re.findall('"text_output":"(.*?)"', reply.body.decode())) == STREAMED
    return f'"data":[{2 * VALUES[kind]}]'.encode() in reply.body


async def measure(name: str, cluster: Cluster, given: argparse.Namespace) -> dict[str, Any]:
    """Load the cluster while it has a fault; return what callers noticed."""
    await cluster.until_all_available()
    rng = np.random.default_rng([given.seed, *name.encode()])
    after = RESTART_S if name in OUTAGES else AFTER_S
    model, questions, rate = NAME, QUESTIONS, 3 * LOAD * CAPACITY
    if name in STREAM_FAULTS:
        model, questions, rate = LETTERS, STREAMS, STREAMS_S
    due = openloop.poisson(rate, QUIET_S + given.seconds + after, rng)
    retries = (await cluster.view(model)).retries
    load = asyncio.create_task(asyncio.to_thread(loaded, cluster.front.port, due, questions))
    await asyncio.sleep(QUIET_S)
    fault = {**FAULTS, **STREAM_FAULTS, **OUTAGES}[name]
    async with fault(cluster):
        began = time.monotonic()
        await asyncio.sleep(given.seconds)
        ended = time.monotonic()
    got, start = await load
    returned = min((at for at in cluster.returned if at > ended), default=ended)
    retries = (await cluster.view(model)).retries - retries
    return {"fault": name, **figures(name, got, began - start, ended - start, returned - start, retries)}


def loaded(port: int, due: openloop.Floats, questions: list[Question]) -> tuple[Outcome, float]:
    """Return what became of the requests, and when they began."""
    got = openloop.run(port, due, questions, timeout=PATIENCE_S, keep_every=1)
    return got, time.monotonic() - got.seconds


def figures(
    name: str, got: Outcome, began: float, ended: float, returned: float, retries: int
) -> dict[str, Any]:
    """Return the figures of a run; times in seconds since its start. Pure."""
    at, is_good = got.scheduled, got.status == 200
    is_good[[each.request for each in got.replies if ERROR in each.body]] = False
    quiet, settled = got.done < began, at >= began + SETTLED_S
    during = ~quiet & (at < ended)  # with those that were under way when it began
    before = p99(got, quiet)
    is_bad = ~is_good | (got.latency > MOST_SLOWER * before)
    counted = returned if name in OUTAGES else began
    last = len(at) and at[-1] if name in OUTAGES else ended
    slots = np.floor(at - counted)
    bad = [slot for slot in range(int(last - counted)) if is_bad[slots == slot].mean() > 0.01]
    good_after = got.done[is_good & (got.sent > began + 0.2)]
    row = {
        "requests": int(during.sum()),
        "failed": int((during & ~is_good).sum()),
        "failed_quiet": int((quiet & ~is_good).sum()),
        "wrong": sum(
            bool(is_good[each.request]) and not is_right(name, int(got.kinds[each.request]), each)
            for each in got.replies
        ),
        "p99_quiet_ms": round(before * 1e3, 1),
        "p99_ms": round(p99(got, during) * 1e3, 1),
        "p99_settled_ms": round(p99(got, during & settled) * 1e3, 1),
        "recovered_s": max(bad, default=-1) + 1,
        "sent": round(1 + retries / len(at), 3),
    }
    if name in OUTAGES:
        row["return_s"] = round(max(0.0, float(good_after.min()) - returned), 2)
    return row


def p99(got: Outcome, which: Any) -> float:
    """Return the 99th percentile of the answers' latency in seconds; NaN without one."""
    found = got.latency[which & (got.status == 200)]
    return float(np.percentile(found, 99)) if len(found) else float("nan")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table. Pure."""
    lines = [
        "| fault | requests | failed | wrong answers | p99 quiet, ms | added | added after 5 s "
        "| recovered, s | retries |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        added = [f"{row[key] - row['p99_quiet_ms']:+.0f}" for key in ("p99_ms", "p99_settled_ms")]
        lines.append(
            f"| {row['fault']} | {row['requests']} | {row['failed'] / row['requests']:.2%} | {row['wrong']} "
            f"| {row['p99_quiet_ms']:.0f} | {' | '.join(added).replace('+nan', '–')} | {row['recovered_s']} "
            f"| {row['sent'] - 1:.1%} |"
        )
    return lines


def verdicts(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, bool]]:
    """(claim, required, measured, holds)."""
    for row in rows:
        name = row["fault"]
        if name == "killed":
            yield "one of three killed: failed requests", "0", str(row["failed"]), not row["failed"]
        if name == "slow":
            ratio = row["p99_settled_ms"] / row["p99_quiet_ms"]
            yield (
                "one of three slow: p99 after 5 s",
                f"≤ {MOST_SLOWER} × quiet",
                f"{ratio:.2f} ×",
                ratio <= MOST_SLOWER,
            )
        if name in OUTAGES:
            holds = row["return_s"] <= MOST_RETURN_S
            yield (
                f"{name}: first good answer after the first return",
                f"≤ {MOST_RETURN_S:g} s",
                f"{row['return_s']} s",
                holds,
            )
        if name == "all failing":
            yield (
                f"{name}: requests to instances",
                f"≤ {MOST_SENT} × callers'",
                f"{row['sent']} ×",
                row["sent"] <= MOST_SENT,
            )


def text(result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    return "\n".join([page.provenance(result), "", *table(rows), "", *page.targets(verdicts(rows))])


async def run(given: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    with page.scratch("chaos") as folder:
        async with Cluster(folder) as cluster:
            for name in given.only or [*FAULTS, *STREAM_FAULTS, *OUTAGES]:
                rows.append(await measure(name, cluster, given))
                print(rows[-1], flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=page.words, help="faults, separated by commas (default: all)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each fault")
    parser.add_argument("--seed", type=int, default=1)
    page.add_arguments(parser, "chaos")
    given = parser.parse_args()
    quiet = host.Quiet()
    rows = asyncio.run(run(given))
    settings = {"load": LOAD, "seconds": given.seconds, "quiet_s": QUIET_S, "after_s": AFTER_S}
    result = {"host": host.facts(), "settings": settings, "noise": quiet.verdict(), "rows": rows}
    page.write(given, "chaos", result, text(result), PAGE)
    return int(not all(holds for *_, holds in verdicts(rows)))


if __name__ == "__main__":
    sys.exit(main())
