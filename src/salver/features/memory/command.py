"""``salver memory``: what is in memory, what is not, and why."""

import asyncio
import time
from typing import Annotated, Any

import orjson
from cyclopts import Parameter

from salver.terminal.options import DEFAULT_URL, Json, Url, token
from salver.terminal.output import line, listed, on_terminal, record
from salver.words.sizes import told_bytes

_COLUMNS = ("model", "place", "bytes", "residence", "rate", "idle", "reload", "loads", "evictions", "why")
_SHOWN = 3  # versions that would go first
_CLEAR = "\x1b[H\x1b[2J"


def memory(
    *,
    watch: Annotated[
        float, Parameter(help="Show it again after this many seconds, until Ctrl-C; 0 = once.")
    ] = 0.0,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Show which models of a server are in memory, what they take, and why others are not.

    Needs a server with --memory, and the right to read. Set SALVER_TOKEN to the key.
    """
    while True:
        found = asyncio.run(_ask(url))
        if watch > 0 and on_terminal():
            line(_CLEAR)
        _show(found, json=json)
        if watch <= 0:
            return
        time.sleep(watch)


async def _ask(url: str) -> dict[str, Any]:
    from salver.client import Client

    async with Client(url, token=token()) as client:
        found: dict[str, Any] = orjson.loads(await client.api("GET", "/memory"))
        return found


def _show(found: dict[str, Any], *, json: bool) -> None:
    if json:
        record(found)
        return
    rows = sorted(found["models"], key=lambda row: (row["place"] == "absent", -row["bytes"], row["model"]))
    listed(rows, _COLUMNS, _texts, json=False, none="no model is served")
    for tenant in found["tenants"]:
        most = "the budget"
        if tenant["ceiling"]:
            most = told_bytes(tenant["ceiling"])
        line(
            f"tenant {tenant['tenant']}: {told_bytes(tenant['bytes'])} of at most {most}, "
            f"a share of {told_bytes(tenant['share'])}"
        )
    for source in found["ahead"]:
        if source["used"] or source["unused"]:
            state = "on" if source["is_on"] else "off, since it costs more than it saves"
            line(
                f"loading ahead by {source['source']}: {source['used']} of "
                f"{source['used'] + source['unused']} were asked for in time, {source['saved']:.1f} s saved, "
                f"{source['spent']:.1f} s spent; {state}"
            )
    for pool in found["pools"]:
        order = ", ".join(pool["order"][:_SHOWN]) or "none"
        line(
            f"{pool['pool']}: {told_bytes(pool['used'])} of {told_bytes(pool['budget'])} are used, "
            f"{told_bytes(pool['largest'])} would fit now, and {told_bytes(pool['most'])} without those that "
            f"may go (first: {order})"
        )
    cache = ""
    if found["cache"]:
        cache = f" ({told_bytes(found['cache'])} of it by the response cache)"
    line(
        f"{told_bytes(found['used'])} of {told_bytes(found['budget'])} are used, "
        f"{told_bytes(found['reserve'])} are kept free, {told_bytes(found['base'])} without models, "
        f"{told_bytes(found['rest'])} by no model in particular{cache}; "
        f"{found['refusals']} refusals"
    )


def _texts(row: dict[str, Any]) -> list[str]:
    size = told_bytes(row["bytes"])
    if not row["is_measured"]:
        size = f"about {size}"
    size += "".join(f", {name} {told_bytes(part)}" for name, part in row["devices"].items())
    return [
        f"{row['model']}:{row['version']}",
        row["place"],
        size,
        row["stays"] or row["residence"],
        f"{row['rate']:.3g}/s",
        f"{row['idle_seconds']:.0f} s",
        f"{row['reload_seconds']:.2f} s",
        str(row["loads"]),
        str(row["evictions"]),
        row["why"],
    ]
