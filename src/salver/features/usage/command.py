"""``salver usage``: what keys have used, by model and hour."""

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from salver.terminal.options import DEFAULT_URL, Json, Url, token
from salver.terminal.output import listed, moment, record, remark
from salver.words.errors import InvalidInput

_GROUPS: Final = ("key", "model", "hour")
_COUNTS: Final = (
    *("requests", "rows", "prompt_tokens", "answer_tokens"),
    *("bytes_in", "bytes_out", "compute_seconds", "refusals"),
)
_TIMES: Final = {"m": 60, "h": 3600, "d": 86_400}


def usage(
    *,
    key: Annotated[str, Parameter(help="Id of one key.")] = "",
    model: Annotated[str, Parameter(help="Name of one model.")] = "",
    since: Annotated[
        str, Parameter(help="From this time on: 7d, 12h, a day as 2026-11-30, or a time with its offset.")
    ] = "",
    until: Annotated[str, Parameter(help="Before this time, in the same form.")] = "",
    by: Annotated[
        str, Parameter(help="What the rows tell apart, with commas: key, model, hour.")
    ] = "key,model",
    output: Annotated[str, Parameter(help="Write to this file instead: .csv or .parquet.")] = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Show what keys have used of a server's models; with a ledger, of all its servers'.

    Needs the right to read. Set SALVER_TOKEN to the key.
    """
    from salver.features.usage.export import check, write

    if output:
        check(Path(output))
    query = {"key": key, "model": model, "by": by}
    now = time.time()
    bounds = {"since": parse_time(since, now, "--since"), "until": parse_time(until, now, "--until")}
    rows = asyncio.run(_ask(url, {**query, **{name: str(at) for name, at in bounds.items() if at}}))
    groups = [name for name in _GROUPS if name in by.split(",")]
    columns = [*groups, *_COUNTS]
    if output:
        write(Path(output), columns, rows)
        remark(f"{len(rows)} rows are in {output}")
    elif json:
        for row in rows:
            record({name: row[name] for name in columns})
    else:
        listed(rows, columns, lambda row: _texts(row, columns), json=False, none="nothing was used")


def parse_time(text: str, now: float, flag: str) -> float:
    """Return Unix seconds for a time, or for one so long ago; 0 = none is given.

    Raises:
        InvalidInput: it is neither.

    >>> parse_time("2h", 10_000.0, "--since"), parse_time("1970-01-02", 0.0, "--since")
    (2800.0, 86400.0)
    """
    if not text:
        return 0.0
    if found := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
        return max(0.0, now - int(found[1]) * _TIMES[found[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is no time", field=flag, fix="Write it as 7d, 2026-11-30 or 2026-11-30T12:00:00Z."
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _texts(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    texts = []
    for name in columns:
        value = row[name]
        if name == "hour":
            texts.append(moment(value))
        elif name == "compute_seconds":
            texts.append(f"{value:.3f}")
        else:
            texts.append(str(value))
    return texts


async def _ask(url: str, query: dict[str, str]) -> list[dict[str, Any]]:
    """Return all rows, a page after the other."""
    from salver.client import Client

    rows: list[dict[str, Any]] = []
    after = ""
    async with Client(url, token=token()) as client:
        while True:
            page = await client.usage({**query, "limit": "1000", "after": after})
            rows += page["items"]
            after = page["next"]
            if not after:
                return rows
