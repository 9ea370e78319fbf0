"""``salver instances``: the servers that answer for a model, and draining of one of them."""

import asyncio
from typing import Any

import orjson
from cyclopts import App

from salver.terminal.options import DEFAULT_URL, Json, Url, token
from salver.terminal.output import line, listed, record

_COLUMNS = ("instance", "state", "weight", "pending", "answered", "failed", "latency", "why")

instances = App(
    name="instances",
    help="Show the servers that answer for a model, drain one, or let it take part again.",
)


@instances.command(name="list")
def list_instances(model: str, *, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Show the instances of a model: state, requests under way, latency, and why one gets no requests.

    Needs the right to read where the server has keys. Set SALVER_TOKEN to the key.

    Args:
        model: Name of a model with an instances.toml.
    """
    _show(asyncio.run(_ask("GET", url, model)), json=json)


@instances.command
def drain(model: str, instance: str, *, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Give an instance no new requests; those under way are answered.

    Args:
        model: Name of a model with an instances.toml.
        instance: URL of the instance, as the list shows it.
    """
    _change(model, instance, url=url, draining=True, json=json)


@instances.command
def restore(model: str, instance: str, *, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Let an instance that was drained take part again.

    Args:
        model: Name of a model with an instances.toml.
        instance: URL of the instance, as the list shows it.
    """
    _change(model, instance, url=url, draining=False, json=json)


def _change(model: str, instance: str, *, url: str, draining: bool, json: bool) -> None:
    _show(asyncio.run(_ask("PATCH", url, model, {"url": instance, "draining": draining})), json=json)


async def _ask(verb: str, url: str, model: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    from urllib.parse import quote

    from salver.client import Client

    async with Client(url, token=token()) as client:
        path = f"/models/{quote(model, safe='')}/instances"
        found: dict[str, Any] = orjson.loads(await client.api(verb, path, body))
        return found


def _show(found: dict[str, Any], *, json: bool) -> None:
    if json:
        record(found)
        return
    listed(found["instances"], _COLUMNS, _texts, json=False, none="the model has no instances")
    line(
        f"{found['policy']}; {found['retries']} retries, {found['hedges']} hedges, "
        f"{found['retries_left']:g} left; "
        f"{found['ejections']} ejections"
    )
    if found["note"]:
        line(found["note"])


def _texts(row: dict[str, Any]) -> list[str]:
    return [
        row["url"],
        row["state"],
        f"{row['weight']:g}",
        str(row["pending"]),
        str(row["answered"]),
        str(row["failed"]),
        f"{1e3 * row['latency_seconds']:.2f} ms",
        row["why"],
    ]
