"""Claim: Salver answers more in time than the best tuned peer; beyond capacity peers answer nothing in time.

    python benchmarks/burst.py                          # everything, about twenty minutes
    python benchmarks/burst.py --only salver,triton --seconds 2 --untuned
    python benchmarks/burst.py --resume benchmarks/results/raw/burst-….json   # only who is missing there

One model (``tower``), one objective, S = 4 τ(1), open loop over HTTP. For each system: goodput (right answers
within S) at Poisson loads from a twentieth to twice what the bare loop can carry in full batches; the
highest rate at which 99 % are in time; and a replay of the arrivals of an LLM trace that is almost nothing
but bursts (CV 13), its mean scaled to a fifth of capacity. Each peer is first tried in the three settings of
``SETTINGS`` at two loads and keeps the best one; Salver is told the objective, and nothing is tried.

Exits with 1 if a target is missed.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import feasible
import forms
import host
import numpy as np
import openloop
import overload
import page
import processes
import subjects
from models import ROOT, Model
from openloop import Floats, Outcome
from peers import environment
from processes import Launch
from subjects import Subject
from systems import System, all_systems

SUBJECT = subjects.SUBJECTS["tower"]
TRACE = Path(__file__).resolve().parent / "data" / "azure_llm_2023_code_gaps.txt"
PICTURE = ROOT / "docs" / "img" / "overload-peers.svg"
CONNECTIONS = 512
#: Offered rates, in full batches of the bare loop.
LOADS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 2.0)
REPORTED = (1.2, 2.0)
COLLAPSED = 0.1  # share in time, below which only the reported loads are tried as well
TRIAL_LOADS = (0.3, 0.6)
BURST_LOAD = 0.2
#: The same budget for each that can batch: three settings of the names in its peer.py.
SETTINGS: dict[str, tuple[dict[str, float], ...]] = {
    "litserve": tuple({"BATCH": b, "WAIT_SECONDS": w} for b, w in ((8, 0.0), (32, 0.0), (32, 0.002))),
    "bentoml": tuple({"BATCH": b, "LATENCY_MS": ms} for b, ms in ((0, 100), (32, 20), (32, 1000))),
    "mlserver": tuple({"BATCH": b, "WAIT_SECONDS": w} for b, w in ((0, 0.0), (8, 0.001), (32, 0.002))),
    "rayserve": tuple({"BATCH": b, "WAIT_SECONDS": w} for b, w in ((0, 0.0), (8, 0.0), (32, 0.002))),
    "torchserve": tuple({"BATCH": b, "WAIT_MS": ms} for b, ms in ((8, 1), (32, 1), (32, 4))),
    "triton": tuple({"BATCH": b, "WAIT_MICROSECONDS": us} for b, us in ((8, 0), (32, 0), (32, 2000))),
}


class Session:
    """One system in one setting; started when it is asked, and anew when an overload leaves it slow."""

    def __init__(self, system: System, subject: Subject, slo: float) -> None:
        self.system = system
        form = system.forms(subject.model)["http"]
        assert not isinstance(form, str)
        self._form = form
        self._subject = subject
        self._slo = slo
        self._stack = contextlib.ExitStack()
        self._port = 0

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def offer(self, due: Floats) -> Outcome:
        """What becomes of requests at those times; the system has rested before.

        Raises:
            processes.Unready, openloop.Failed: no figures, or wrong answers.
        """
        if not self._port:
            self._start()
        questions = self._subject.questions(self._form)
        got = openloop.run(self._port, due, questions, connections=CONNECTIONS, timeout=1)
        got.check(functools.partial(self._subject.is_right, self._form))
        if got.within(self._slo).mean() < feasible.SHARE and not self._has_recovered():
            self._stop()
        return got

    def _start(self) -> None:
        system, model = self.system, self._subject.model
        port = processes.free_port(system.ports)
        folder = subjects.LOG / system.name
        folder.mkdir(parents=True, exist_ok=True)

        def is_ready() -> bool:
            return forms.is_right(self._form, model, port)

        launch = system.launch(model, port, folder)
        log = folder / f"{model.name}.log"
        self._stack.enter_context(processes.running(launch, log, is_ready, system.ready_seconds))
        warm = openloop.poisson(60, 2.0 + system.warm_up_seconds, np.random.default_rng(0))
        openloop.run(port, warm, self._subject.questions(self._form), timeout=5)
        self._port = port

    def _stop(self) -> None:
        self._stack.close()
        self._port = 0

    def _has_recovered(self) -> bool:
        """It answers single questions in time again, three in a row, within three seconds."""
        if self.system.is_fragile:
            return False
        until, quick = time.monotonic() + 3, 0
        while quick < 3:
            if time.monotonic() > until:
                return False
            got = openloop.run(self._port, [0.0], self._subject.questions(self._form), opened=1, timeout=1)
            quick = quick + 1 if got.within(self._slo)[0] else 0
        return True


def salver(slo: float, folder: Path) -> System:
    """Salver with the objective alone."""
    plain = all_systems()["salver"]
    path = overload.repository(SUBJECT, "auto", round(slo * 1e3, 1), folder)
    command = str(Path(sys.executable).with_name("salver"))

    def launch(model: Model, port: int, logs: Path) -> Launch:
        return Launch([command, "serve", str(path), "--port", str(port)], cwd=logs)

    return dataclasses.replace(plain, launch=launch, settings=f"objective: latency_p99 {slo * 1e3:.1f} ms")


def bursts(rate: float) -> Floats:
    """The trace's arrivals, at that mean rate."""
    times = np.cumsum(np.loadtxt(TRACE)) / 1e6
    return times * (len(times) / rate / float(times[-1]))


def tuned(
    name: str, system: System, slo: float, capacity: float, given: argparse.Namespace
) -> dict[str, float]:
    """Sets the peer to the best of its settings, and returns it."""
    choices = SETTINGS.get(name, ())
    if not choices:
        return {}
    module = importlib.import_module(f"peers.{name}.peer")
    scores = []
    for choice in choices[:1] if given.untuned else choices:
        for key, value in choice.items():
            assert hasattr(module, key), f"{name} has no setting {key}"
            setattr(module, key, value)
        score = 0.0
        with (
            contextlib.suppress(processes.Unready, openloop.Failed),
            Session(system, SUBJECT, slo) as session,
        ):
            for load in TRIAL_LOADS:
                due = feasible.arrivals(load * capacity, given.seconds, given.seed)
                score += session.offer(due).within(slo).mean() * load
        print(f"    {name} {choice}: {score / sum(TRIAL_LOADS):.3f} of the trial in time", flush=True)
        scores.append(score)
    best = choices[int(np.argmax(scores))]
    for key, value in best.items():
        setattr(module, key, value)
    return best


def measure(system: System, slo: float, capacity: float, given: argparse.Namespace) -> dict[str, Any]:
    """All figures of one system."""
    if reason := system.missing():
        return {"system": system.name, "reason": reason}
    try:
        chosen = tuned(system.name, system, slo, capacity, given)
        with Session(system, SUBJECT, slo) as session:
            curve = []
            for load in LOADS:
                if load in REPORTED or not curve or curve[-1]["share"] >= COLLAPSED:
                    got = session.offer(feasible.arrivals(load * capacity, given.seconds, given.seed))
                    curve.append({"load": load, **_cell(got, slo, load * capacity)})
            rate = _highest(session, curve, slo, capacity, given)
            got = session.offer(bursts(BURST_LOAD * capacity))
            burst = float(got.within(slo).mean())
    except (processes.Unready, openloop.Failed) as error:
        return {"system": system.name, "reason": str(error)}
    return {
        "system": system.name,
        "setting": chosen or system.settings,
        "rate": round(rate, 1),
        "burst": round(burst, 4),
        "curve": curve,
    }


def _cell(got: Outcome, slo: float, rate: float) -> dict[str, Any]:
    share, p99 = feasible.counted(got, slo)
    statuses, counts = np.unique(got.status, return_counts=True)
    return {
        "share": round(share, 4),
        "goodput": round(share * rate, 1),
        "p99_ms": round(p99 * 1e3, 2) if np.isfinite(p99) else None,
        "statuses": {int(s): int(n) for s, n in zip(statuses, counts, strict=True)},
    }


def _highest(
    session: Session, curve: list[dict[str, Any]], slo: float, capacity: float, given: argparse.Namespace
) -> float:
    """Bisection between the highest load of the curve that passed and the next one."""
    passed = [point["load"] for point in curve if point["share"] >= feasible.SHARE]
    low = max(passed, default=0.0)
    high = min((load for load in LOADS if load > low), default=low)

    def is_feasible(rate: float) -> bool:
        got = session.offer(feasible.arrivals(rate, given.seconds, given.seed))
        return feasible.counted(got, slo)[0] >= feasible.SHARE

    return feasible.highest(is_feasible, low * capacity, high * capacity, 4)


HEAD = (
    *("system", "in time at most/s", "of bare loop", "in time at 1.2 ×", "in time at 2 ×", "burst in time"),
    "setting",
)


def table(result: Mapping[str, Any]) -> list[str]:
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 2) + "---|"]
    for row in result["rows"]:
        if "reason" in row:
            cells = [row["system"], *["–"] * (len(HEAD) - 2), row["reason"].strip().splitlines()[0]]
        else:
            at = {point["load"]: point for point in row["curve"]}
            cells = [row["system"], f"{row['rate']:.0f}", f"{row['rate'] / result['capacity']:.2f}"]
            cells += [f"{at[load]['goodput'] / result['capacity']:.1%} of bare" for load in REPORTED]
            setting = row["setting"]
            if not isinstance(setting, str):
                setting = ", ".join(f"{k} {v:g}" for k, v in setting.items())
            cells += [f"{row['burst']:.1%}", setting]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdicts(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """(claim, required, measured, holds)."""
    rows = {row["system"]: row for row in result["rows"]}
    ours = rows.pop("salver", {"reason": "not run"})
    if "reason" in ours:
        yield "salver", "figures", ours["reason"].strip().splitlines()[0], False
        return
    peers = {name: row for name, row in rows.items() if "reason" not in row}
    if not peers:
        return
    for claim, figure, needed in (
        ("goodput within capacity", _within_capacity, 1.1),
        ("highest rate with 99 % in time", lambda row: row["rate"], 1.0),
        ("burst in time", lambda row: row["burst"], 1.0),
    ):
        best = max(peers, key=lambda name: figure(peers[name]))
        ratio = figure(ours) / max(figure(peers[best]), 1e-9)
        yield f"{claim}, over the best peer's ({best})", f"≥ {needed:g}", f"{ratio:.2f}", ratio >= needed


def _within_capacity(row: Mapping[str, Any]) -> float:
    """The most right answers a second in time, at any offered rate that the bare loop could carry."""
    return max(float(point["goodput"]) for point in row["curve"] if point["load"] <= 1.0)


def text(result: Mapping[str, Any]) -> str:
    loop = f"The bare loop carries {result['capacity']:.0f} requests a second in full batches"
    rule = f"the simulated rule answers {result['simulated_burst']:.1%} of the replayed burst in time"
    return "\n".join(
        [
            page.provenance(result),
            *("", f"S = {result['slo_ms']} ms. {loop}; {rule}."),
            *("", *table(result), "", *page.targets(verdicts(result)), ""),
            "![Answered in time against offered, for each server](../img/overload-peers.svg)",
        ]
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Goodput against offered load, all systems."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "salver", "svg.fonttype": "none", "font.family": "sans-serif"}
    )
    from matplotlib import pyplot

    capacity = result["capacity"]
    figure, axes = pyplot.subplots(figsize=(7.2, 4.2))
    axes.plot(LOADS, result["fluid"], color="0.6", linestyle="--", label="no server can do more")
    for row in result["rows"]:
        if "reason" in row:
            continue
        ours = row["system"] == "salver"
        goodput = [point["goodput"] / capacity for point in row["curve"]]
        style: dict[str, Any] = (
            {"color": "#c0392b", "linewidth": 3, "zorder": 5} if ours else {"linewidth": 1.3}
        )
        axes.plot(
            [point["load"] for point in row["curve"]], goodput, marker=".", label=row["system"], **style
        )
    axes.set_xlabel("offered, in full batches of the bare loop")
    axes.set_ylabel(f"answered within {result['slo_ms']} ms")
    axes.set_xlim(0, max(LOADS))
    axes.set_ylim(0, 1.05)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", type=page.words, default=[], help="systems (default: salver and every peer)"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of load at each rate")
    parser.add_argument("--untuned", action="store_true", help="each peer's first setting, without trials")
    parser.add_argument(
        "--resume", type=Path, help="an earlier result; who has figures there is not run again"
    )
    parser.add_argument("--seed", type=int, default=1)
    page.add_arguments(parser, "burst")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    given = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives us
    subjects.make()
    known = {name: system for name, system in all_systems().items() if name not in ("prototype", "floor")}
    if unknown := set(given.only) - set(known):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; systems are {', '.join(known)}")
    earlier = json.loads(given.resume.read_text()) if given.resume else {"rows": []}
    rows = [row for row in earlier["rows"] if "reason" not in row]
    given.out = (
        given.out or given.resume or page.RESULTS / "raw" / f"burst-{time.strftime('%m%d-%H%M%S')}.json"
    )
    quiet = host.Quiet()
    tau = subjects.measured(SUBJECT.runner())
    capacity = earlier.get("capacity") or feasible.offline(tau, SUBJECT.rows)
    slo = (earlier.get("slo_ms") or round(4e3 * tau(1), 1)) / 1e3
    replay = bursts(BURST_LOAD * capacity)
    result = {
        "host": host.facts(),
        "settings": {"seconds": given.seconds, "seed": given.seed, "connections": CONNECTIONS},
        "slo_ms": round(slo * 1e3, 1),
        "capacity": round(capacity, 1),
        "simulated_burst": subjects.simulated(replay, tau, slo, SUBJECT.rows) / len(replay),
        "fluid": [subjects.fluid(load * capacity, tau, slo, SUBJECT.rows) / capacity for load in LOADS],
        "rows": rows,
    }
    with page.scratch("burst") as folder:
        known["salver"] = salver(slo, folder)
        for name in given.only or known:
            if any(row["system"] == name for row in rows):
                continue
            if known[name].environment:
                environment.make(known[name].environment)
            rows.append(measure(known[name], slo, capacity, given))
            print("\n".join(table({**result, "rows": rows[-1:]})[2:]), flush=True)
            page.keep(given.out, {**result, "noise": quiet.verdict()})
    finished = {**result, "noise": quiet.verdict()}
    page.write(given, "burst", finished, text(finished))
    if given.publish:
        draw(finished, PICTURE)
    return int(not all(holds for *_, holds in verdicts(finished)))


if __name__ == "__main__":
    sys.exit(main())
