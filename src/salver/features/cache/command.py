"""``salver cache explain``: what the response cache saves, by model, and what would be best."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
from cyclopts import App, Parameter

from salver.terminal.options import DEFAULT_URL, Json, Url, token
from salver.terminal.output import line, listed, record
from salver.words.sizes import told_bytes

cache = App(name="cache", help="Response cache of a server.", default_parameter=Parameter(negative=()))
_COLUMNS: Final = (
    "model",
    "version",
    "state",
    "requests",
    "hit ratio",
    "saves",
    "size",
    "best size",
    "best ratio",
)
_WIDTH: Final = 40


@cache.command
def explain(
    model: Annotated[str, Parameter(help="One model, with its curve; empty = a line for each.")] = "",
    /,
    *,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Show what the response cache saves, in cores of the models' time, and which size would save most.

    Needs the right to read. Set SALVER_TOKEN to the key.
    """
    rows = asyncio.run(_ask(url, model))
    if json:
        for row in rows:
            record(row)
        return
    none = "no model of this server uses a response cache"
    if model:
        none = f"{model} is not served with a response cache"
    listed(rows, _COLUMNS, _cells, json=False, none=none)
    if model:
        for row in rows:
            for text in drawn(row):
                line(text)


def drawn(row: dict[str, Any]) -> list[str]:
    """Return the curve of a model as lines, and the decision.

    >>> drawn({"model": "m", "version": "1", "why": "so", "curve": [{"bytes": 2048, "hit_ratio": 0.5}]})[1]
    '       2 KiB   50.0 %  ████████████████████'
    """
    texts = [f"{row['model']} {row['version']}: hit ratio by size"]
    for point in row["curve"]:
        bar = "█" * round(point["hit_ratio"] * _WIDTH)
        texts.append(f"{told_bytes(point['bytes']):>12}  {point['hit_ratio'] * 100:5.1f} %  {bar}")
    if not row["curve"]:
        texts.append("  no request was seen twice")
    return [*texts, row["why"]]


def _cells(row: dict[str, Any]) -> Sequence[str]:
    answered = row["hits"] + row["joined"]
    requests = answered + row["misses"]
    ratio = answered / requests if requests else 0.0
    return (
        row["model"],
        row["version"],
        row["state"],
        str(requests),
        f"{ratio:.3f}",
        f"{row['saves']:.3f} cores",
        told_bytes(row["size"]),
        told_bytes(row["best_size"]),
        f"{row['best_hit_ratio']:.3f}",
    )


async def _ask(url: str, model: str) -> list[dict[str, Any]]:
    """Return the reports, a page after the other."""
    from salver.client import Client

    rows: list[dict[str, Any]] = []
    after = ""
    async with Client(url, token=token()) as client:
        while True:
            query = urlencode({"model": model, "limit": "1000", "after": after})
            page = msgspec.json.decode(await client.api("GET", f"/cache?{query}"))
            rows += page["items"]
            after = page["next"]
            if not after:
                return rows
