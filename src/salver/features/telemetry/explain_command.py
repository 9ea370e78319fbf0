"""``salver explain``: breakdown of request latencies in the terminal."""

import asyncio
import itertools
import shutil
from collections.abc import Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter

from salver.encoding.escaping import printable
from salver.terminal.options import DEFAULT_URL, Json, Url, Version, token
from salver.terminal.output import line, on_terminal, record, table

_PHASES: Final = ("queue", "formation", "inference", "rest")
_COLOURS: Final = ("yellow", "magenta", "cyan", "blue")
_BAR: Final = (8, 40)
_Row = tuple[str, dict[str, Any]]


def explain(
    model: str,
    /,
    *,
    request: Annotated[
        str, Parameter(help="Id of a recent request, from the x-request-id of its answer.")
    ] = "",
    model_version: Version = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Explain where the time of a model's requests goes.

    Queue (every instance was busy), formation (an instance was idle and waited for the batch to fill),
    inference (time in the model) and the rest (decoding, encoding, scheduling) add up to each request's
    latency. Covers the last three minutes.

    Args:
        model: Name of the model.
    """
    found = asyncio.run(_ask(url, model, model_version, request))
    if json:
        record(found)
    elif request:
        _show_request(found)
    else:
        _show_model(found)


async def _ask(url: str, model: str, version: str, request: str) -> dict[str, Any]:
    from salver.client import Client

    async with Client(url, token=token()) as client:
        return await client.explain(model, version, request=request)


def _show_model(found: dict[str, Any]) -> None:
    title = f"{printable(found['model'])}:{printable(found['version'])}"
    answers = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items())
    if not answers:
        line(f"{title}: no request in the last three minutes")
        return
    line(f"{title}, the last {found['seconds']:.0f} s: {answers}")
    if found["refused"]:
        line(f"refused: {', '.join(f'{count} {why}' for why, count in found['refused'].items())}")
    if found["verdict"] is None:
        line("no request was answered, so there is nothing to explain")
        return
    line()
    _show_rows([("typical", found["typical"]), ("slowest 1 %", found["slow"])])
    line()
    line(
        f"busiest time: {found['offered_rows_per_second']:.0f} rows/s; the best batches seen allow "
        f"{found['capacity_rows_per_second']:.0f} rows/s"
    )
    _show_verdict(found["verdict"], "the slow requests' time")
    if found["slowest"]:
        line()
        _show_rows(
            [
                (f"{printable(entry['request_id'])} ({entry['seconds_ago']:.0f} s ago)", entry)
                for entry in found["slowest"]
            ]
        )


def _show_request(found: dict[str, Any]) -> None:
    title = f"request {printable(found['request_id'])} to {printable(found['model'])}:{found['version']}"
    line(f"{title} over {found['protocol']}: {found['outcome']} after {found['latency_ms']:.3g} ms")
    if "verdict" not in found:
        if found["why"]:
            line(f"it was given up before it ran: {found['why']}")
        return
    line()
    _show_rows([("this one", found), ("typical", found["typical"])])
    line()
    _show_verdict(found["verdict"], "its time")
    if "steps" in found:
        _show_steps(found)
        return
    line(f"its batch of {found['batch_rows']:.0f} rows was closed by: {found['closed_by'] or 'unknown'}")


def _show_steps(found: dict[str, Any]) -> None:
    """Show the steps of a graph; those with a mark, and what is between them, add up to the latency."""
    keys = ("at_ms", "latency_ms", "queue_ms", "inference_ms", "rest_ms")
    rows = [
        (
            f"{'*' if step['is_decisive'] else ' '} {printable(step['name'])}",
            *(f"{step[key]:.2f}" for key in keys),
            f"{step['cache_hits']} of {step['cache_lookups']}" if step["cache_lookups"] else "",
        )
        for step in found["steps"]
    ]
    spent = sum(step["latency_ms"] for step in found["steps"] if step["is_decisive"])
    between = found["latency_ms"] - spent
    line()
    columns = ["step", "at", "ms", "queue", "inference", "rest"]
    if any(row[-1] for row in rows):
        columns.append("cached")
    table(columns, [row[: len(columns)] for row in rows])
    line(f"*: decided when the answer was there, {spent:.2f} ms; beside them {between:.2f} ms passed")


def _show_verdict(verdict: dict[str, Any], whose: str) -> None:
    line(f"{verdict['share']:.0%} of {whose} is {verdict['phase']}: {verdict['cause']}")
    for advice in verdict["advice"]:
        line(f"  try: {advice}")


def _show_rows(rows: Sequence[_Row]) -> None:
    """Show one line per request: a bar on a terminal, and always the numbers."""
    columns = ("", "ms", *_PHASES, "rows", "batch", "ahead")
    cells = [_cells(name, split) for name, split in rows]
    if not on_terminal():
        table(columns, cells)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numbers = sum(max(map(len, column)) + 2 for column in zip(columns, *cells, strict=True))
    least, most = _BAR
    room = shutil.get_terminal_size((100, 24)).columns
    bar = max(least, min(most, room - numbers))
    longest = max(split["latency_ms"] for _, split in rows) or 1.0
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column, colour in zip(("", *columns), ("", "", "bold", *_COLOURS, "", "", ""), strict=True):
        shown.add_column(Text(column, colour), justify="right" if column else "left", no_wrap=True)
    for (name, *values), (_, split) in zip(cells, rows, strict=True):
        parts = zip(widths(split, longest, bar), _COLOURS, strict=True)
        shown.add_row(name, Text.assemble(*(("█" * width, colour) for width, colour in parts)), *values)
    Console(width=max(room, numbers + bar), highlight=False, markup=False).print(shown)


def widths(split: dict[str, Any], longest: float, bar: int) -> list[int]:
    """Return the width of each phase in a bar, scaled to the longest latency.

    >>> widths({"latency_ms": 10, "queue_ms": 5, "formation_ms": 0, "inference_ms": 5, "rest_ms": 0}, 20, 40)
    [10, 0, 10, 0]
    """
    ends = [0]
    so_far = 0.0
    for phase in _PHASES:
        so_far += max(0.0, split[f"{phase}_ms"])
        ends.append(min(bar, round(so_far / longest * bar)))
    return [end - begin for begin, end in itertools.pairwise(ends)]


def _cells(name: str, split: dict[str, Any]) -> tuple[str, ...]:
    times = [f"{split[f'{phase}_ms']:.2f}" for phase in ("latency", *_PHASES)]
    return (name, *times, *(f"{split[key]:.0f}" for key in ("rows", "batch_rows", "ahead")))
