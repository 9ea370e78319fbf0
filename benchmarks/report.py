"""How do the figures read, and which targets hold?

Pure: a result of ``throughput.py`` in, Markdown out. A ratio compares medians of one run on one
machine; where two systems' ranges overlap the difference counts as a tie.

    python benchmarks/report.py benchmarks/results/throughput.json
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TITLES = {"http": "HTTP/1.1", "json": "HTTP/1.1", "grpc": "gRPC"}
_PAYLOADS = {"image": "binary tensors", "mobilenet": "binary tensors"}


#: Share of the machine that others may take during a cell; beyond it the cell is repeated.
MOST_OTHERS = 0.03

INTRODUCTION = """\
Written by `make bench ARGS=--publish`; [the method](benchmarks.md) says how to read it. In brackets: how many
times as many requests Salver answers in the same cell, or "tie" where the ranges of the rounds overlap."""


def tables(result: dict[str, Any]) -> str:
    """Everything: host, one table a model and transport, failures, targets, settings."""
    facts, set_to, noise = result["host"], result["settings"], result["noise"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, "
        f"revision {facts['revision']}, {facts['date']}. {set_to['rounds']} interleaved rounds of "
        f"{set_to['seconds']} s, medians, {'pinned' if set_to['pin'] else 'not pinned'}; {versions}.",
        "",
        f"Noise: keep-alive exchange {noise['exchange_us'][0]} µs before, {noise['exchange_us'][1]} after, "
        f"steal {noise['steal']:.2%}, load average {noise['load_average']}; {_others(result)}. "
        + ("; ".join(noise["complaints"]) or "Nothing to complain of")
        + ".",
    ]
    groups = list(dict.fromkeys((cell["model"], cell["transport"]) for cell in result["cells"]))
    for model, transport in groups:
        payload = "raw tensors" if transport == "grpc" else "JSON"
        if transport == "http":
            payload = _PAYLOADS.get(model, payload)
        lines += ["", f"## {model}, {payload} over {_TITLES[transport]}", ""]
        cells = [c for c in result["cells"] if (c["model"], c["transport"]) == (model, transport)]
        lines += _table(cells, result)
    lines += ["", "## Serving tax", "", *_taxes(result)]
    lines += ["", "## Targets", "", "| target | cell | required | measured | |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in targets(result)]
    lines += ["", "## Settings", "", "| system | settings |", "|---|---|"]
    lines += [f"| {name} | {system['settings']} |" for name, system in result["systems"].items()]
    failures = list(_failures(result))
    if failures:
        lines += ["", "## Cells without a figure", "", *failures]
    return "\n".join(lines)


def _others(result: dict[str, Any]) -> str:
    """Which share of the processors others had in the cells that count."""
    shares = [
        got["others"] for cell in result["cells"] for got in cell["systems"].values() if "others" in got
    ]
    above = sum(share > MOST_OTHERS for share in shares)
    worst = max(shares, default=0.0)
    return (
        f"other programs had at most {worst:.1%} of the processors during a cell, and more than "
        f"{MOST_OTHERS:.0%} in {above} of {len(shares)}"
    )


def _table(cells: list[dict[str, Any]], result: dict[str, Any]) -> list[str]:
    """Two tables: requests a second; latency and CPU time."""
    counts = [cell["connections"] for cell in cells]
    rates = [["system", *(f"req/s at {n}" for n in counts)]]
    times = [["system", *(f"p50 / p99 ms at {n}" for n in counts), *(f"CPU s/1000 at {n}" for n in counts)]]
    for name in result["systems"]:
        got = [cell["systems"].get(name, {"failed": ""}) for cell in cells]
        ours = [cell["systems"].get("salver", {}) for cell in cells]
        rates.append([name, *(_rate(g, o, name) for g, o in zip(got, ours, strict=True))])
        if any("rate" in g for g in got):
            times.append([name, *map(_latency, got), *map(_cpu, got)])
    return [*_markdown(rates), "", *_markdown(times)]


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]]


def _rate(got: dict[str, Any], ours: dict[str, Any], name: str) -> str:
    if "failed" in got:
        return "–"
    if name == "salver" or "rate" not in ours:
        return f"{got['rate']:,.0f}"
    return f"{got['rate']:,.0f} ({_ratio(ours, got)})"


def _latency(got: dict[str, Any]) -> str:
    if "failed" in got:
        return "–"
    return f"{got['p50_ms']:.3g}" + ("" if got["p99_ms"] is None else f" / {got['p99_ms']:.3g}")


def _cpu(got: dict[str, Any]) -> str:
    return "–" if "failed" in got else f"{got['cpu_s_per_1000']:.3f}"


def _ratio(ours: dict[str, Any], got: dict[str, Any]) -> str:
    if ours["rate_min"] <= got["rate_max"] and got["rate_min"] <= ours["rate_max"]:
        return "tie"
    return f"{ours['rate'] / got['rate']:.2f}×"


def _taxes(result: dict[str, Any]) -> list[str]:
    """The share of the server's CPU time that is not the model's, where the server counts its batches."""
    rows = [
        ["system and cell", "mean batch", "CPU µs a request", "bare ONNX Runtime µs a row", "serving tax"]
    ]
    for name in result["systems"]:
        for cell in result["cells"]:
            got = cell["systems"].get(name, {})
            if "tax" in got:
                cpu = f"{got['cpu_s_per_1000'] * 1000:.1f}"
                figures = [f"{got['batch']:.1f}", cpu, f"{got['bare_us']:.1f}", f"{got['tax']:.0%}"]
                rows.append([f"{name} {_label(cell)}", *figures])
    return _markdown(rows)


def _label(cell: dict[str, Any]) -> str:
    return f"{cell['model']}/{cell['transport']}/{cell['connections']}"


def _failures(result: dict[str, Any]) -> Iterator[str]:
    """One line a system and reason, with the cells it concerns."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in result["cells"]:
        for name, got in cell["systems"].items():
            if "failed" in got:
                reason = got["failed"].strip().splitlines()[0]
                label = _label(cell)
                reasons.setdefault((name, reason), []).append(label)
    for (name, reason), labels in reasons.items():
        yield f"- {name}: {reason} ({', '.join(labels)})"


#: Times the rate of a peer on the tiny model, at one connection and at more.
_NEEDED = {"mosec": (2.0, 1.3), "fastapi": (2.0, 5.0), "torchserve": (2.0, 4.0), "triton": (0.0, 1.8)}
_PYTHON = (2.0, 8.0)


def targets(result: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """(target, cell, required, measured, pass or FAIL) for each cell that has both figures."""
    for cell in result["cells"]:
        ours = cell["systems"].get("salver", {})
        if "rate" not in ours:
            continue
        label = _label(cell)
        rates = {name: got["rate"] for name, got in cell["systems"].items() if "rate" in got}
        if "prototype" in rates:
            yield _at_least("share of the prototype's rate", label, 0.8, ours["rate"] / rates["prototype"])
            if cell["model"] == "tiny" and cell["connections"] == 1:
                median = cell["systems"]["prototype"]["p50_ms"]
                yield _at_most("p50 over the prototype's", label, 1.3, ours["p50_ms"] / median)
        if native := [
            got for name, got in cell["systems"].items() if name.startswith("triton_onnx") and "rate" in got
        ]:
            yield from _beside_native("", label, ours, native)
            for words in ("accelerated", "accelerated fronts 2"):
                if "rate" in (other := cell["systems"].get(f"salver_{words.replace(' ', '_')}", {})):
                    yield from _beside_native(f"{words}: ", label, other, native)
        for name, rate in rates.items():
            if needed := _needed(name, result["systems"][name]["kind"], cell):
                yield _at_least(f"times {name}", label, needed, ours["rate"] / rate)


def _beside_native(
    prefix: str, label: str, ours: dict[str, Any], native: list[dict[str, Any]]
) -> Iterator[tuple[str, str, str, str, str]]:
    """Rate, p99 and CPU time beside native Triton with the number of instances that is best for its rate."""
    best = max(native, key=lambda got: got["rate"])
    needed = 0.9 if label.endswith("/1") else 1.0
    yield _at_least(f"{prefix}times native Triton, the better", label, needed, ours["rate"] / best["rate"])
    if ours["p99_ms"] and best["p99_ms"]:
        yield _at_most(f"{prefix}p99 over native Triton's", label, 1.1, ours["p99_ms"] / best["p99_ms"])
    cpu = ours["cpu_s_per_1000"] / best["cpu_s_per_1000"]
    yield _at_most(f"{prefix}CPU over native Triton's", label, 1.0, cpu)


def _needed(name: str, kind: str, cell: dict[str, Any]) -> float:
    """How many times its rate ours shall be; 0 = nothing is asked."""
    one, most = _NEEDED.get(name) or (_PYTHON if kind == "python" else (0.0, 0.0))
    if cell["model"] == "medium":
        return 2.5 if kind == "python" else 0.0
    if cell["model"] != "tiny":
        return 1.2 if name == "fastapi" and cell["model"] == "image" else 0.0
    return one if cell["connections"] == 1 else most


def _at_least(target: str, label: str, needed: float, got: float) -> tuple[str, str, str, str, str]:
    return target, label, f"≥ {needed:g}", f"{got:.2f}", "pass" if got >= needed else "**FAIL**"


def _at_most(target: str, label: str, needed: float, got: float) -> tuple[str, str, str, str, str]:
    return target, label, f"≤ {needed:g}", f"{got:.2f}", "pass" if got <= needed else "**FAIL**"


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
