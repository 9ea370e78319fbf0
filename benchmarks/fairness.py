"""Claim: a small tenant keeps its latency beside one that offers ten times as much; so does an urgent level.

    python benchmarks/fairness.py [--seconds 8] [--only tenants]

The model of ``law`` with an objective. The small caller offers 0.2 of its capacity, the large one ten times
as much, 2 × capacity; each in turn, told apart by ``x-tenant``, or by ``x-priority`` (strict levels).
The small one alone, and beside the large one in a common queue, are what to compare with. A run cannot be
interrupted, so beside full batches of 36 ms nobody waits less than the rest of one: "keeps" means that
99 % are answered in time, the objective being 100 ms, more than two such runs.

Exits with 1 if a target is missed.
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import host
import numpy as np
import openloop
import overload
import page
import processes
import subjects
from openloop import Question
from subjects import SUBJECTS

SMALL, LARGE = 0.2, 2.0
SLO_MS = 100.0
_STRICT = "[priorities]\nlevels = 2\n"
#: Cell: header, more of the configuration, loads of the two callers.
CELLS = {
    "tenants: the small one alone": ("x-tenant", "", (SMALL, 0.0)),
    "tenants: both": ("x-tenant", "", (SMALL, LARGE)),
    "tenants: both, fairness off": ("x-tenant", "[fairness]\nenabled = false\n", (SMALL, LARGE)),
    "priorities: urgent 0.2, low 2": ("x-priority", _STRICT, (SMALL, LARGE)),
    "priorities: urgent 2, low 0.2": ("x-priority", _STRICT, (LARGE, SMALL)),
}
#: Cells in which 99 % of the first caller's requests are to be answered in time.
KEEPS = ("tenants: both", "priorities: urgent 0.2, low 2")


def measure(cell: str, given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each caller."""
    header, more, loads = CELLS[cell]
    subject = SUBJECTS["law"]
    tau = subjects.linear(subject.a_ms, subject.t0_ms)
    capacity = subject.rows / tau(subject.rows)
    rng = np.random.default_rng(given.seed)
    dues = [openloop.poisson(load * capacity, given.seconds, rng) for load in loads]
    due = np.concatenate(dues)
    callers = np.repeat([0, 1], [len(part) for part in dues])
    order = np.argsort(due)
    due, callers = due[order], callers[order]
    try:
        with overload.served(subject, "auto", SLO_MS, folder, more) as (_, port, form):
            plain = subject.questions(form)
            questions = [
                Question(q.path, q.body, {**q.headers, header: name}) for name in ("1", "2") for q in plain
            ]
            openloop.run(port, openloop.poisson(capacity / 2, 2, rng), plain)
            kinds = callers * len(plain) + np.arange(len(due)) % len(plain)
            got = openloop.run(port, due, questions, kinds)
            got.check(lambda kind, reply: subject.is_right(form, kind % len(plain), reply))
    except (processes.Unready, openloop.Failed) as error:
        yield {"cell": cell, "caller": "both", "reason": str(error)}
        return
    for caller, name in enumerate(("first", "second")):
        its = callers == caller
        if its.any():
            yield {"cell": cell, "caller": name, **_figures(got, its, given.seconds)}


def _figures(got: openloop.Outcome, its: Any, seconds: float) -> dict[str, Any]:
    answered = its & (got.status == 200)
    latency = got.latency[answered] * 1e3
    return {
        "offered": round(int(its.sum()) / seconds, 1),
        "share": round(float(got.within(SLO_MS / 1e3)[its].mean()), 4),
        "answered": round(int(answered.sum()) / seconds, 1),
        "p50_ms": round(float(np.percentile(latency, 50)), 2) if len(latency) else None,
        "p99_ms": round(float(np.percentile(latency, 99)), 2) if len(latency) else None,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"| cell, S {SLO_MS:g} ms | caller | offered/s | answered/s | in time | p50 / p99 ms |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "reason" in row:
            tail = ["–", row["reason"].splitlines()[0], "", ""]
        else:
            tail = [f"{row['offered']:.0f}", f"{row['answered']:.0f}", f"{row['share']:.1%}"]
            tail.append(f"{row['p50_ms']} / {row['p99_ms']}")
        lines.append("| " + " | ".join([row["cell"], row["caller"], *tail]) + " |")
    return lines


def verdicts(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, bool]]:
    """(claim, required, measured, holds)."""
    for row in rows:
        if "reason" in row:
            yield row["cell"], "figures", row["reason"].splitlines()[0], False
        elif row["cell"] in KEEPS and row["caller"] == "first":
            yield f"{row['cell']}: first in time", "≥ 99%", f"{row['share']:.1%}", row["share"] >= 0.99
        elif row["cell"].endswith("low 0.2") and row["caller"] == "second":
            yield f"{row['cell']}: low is answered", "> 0/s", f"{row['answered']}/s", row["answered"] > 0


def text(result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    return "\n".join([page.provenance(result), "", *table(rows), "", *page.targets(verdicts(rows))])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=page.words, default=[], help="cells that begin so: tenants,priorities")
    parser.add_argument("--seconds", type=float, default=8, help="of load in each cell")
    parser.add_argument("--seed", type=int, default=1)
    page.add_arguments(parser, "fairness")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives us
    quiet, rows = host.Quiet(), []
    with page.scratch("fairness") as folder:
        for number, cell in enumerate(CELLS):
            if given.only and not cell.startswith(tuple(given.only)):
                continue
            for row in measure(cell, given, folder / str(number)):
                rows.append(row)
                print("\n".join(table([row])[2:]), flush=True)
    settings = {"seconds": given.seconds, "seed": given.seed, "slo_ms": SLO_MS}
    return page.finish(given, "fairness", settings, quiet.verdict(), rows, text, verdicts)


if __name__ == "__main__":
    sys.exit(main())
