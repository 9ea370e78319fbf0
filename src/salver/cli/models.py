"""``salver models``: list, load and unload the models of a running server."""

import asyncio
from typing import Any, Final

from cyclopts import App, Parameter

from salver.terminal.options import DEFAULT_URL, Json, Url, token
from salver.terminal.output import listed, result

_DIGEST_LETTERS: Final = 12
models = App(
    name="models",
    help="List, load and unload models of a running server. Set SALVER_TOKEN where it wants a token.",
    default_parameter=Parameter(negative=()),
)


@models.default
@models.command(name="list")
def list_models(*, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """List every version that the server knows, with its state, and the reason if it failed.

    Locked pipelines have a digest, of which the table shows the beginning.
    """
    entries = asyncio.run(_index(url))
    keys = ["name", "version", "state", "reason"]
    if any(entry.get("digest") for entry in entries):
        keys.insert(3, "digest")

    def row(entry: dict[str, Any]) -> list[str]:
        texts = {key: str(entry.get(key) or "") for key in keys}
        if "digest" in texts:
            texts["digest"] = texts["digest"][:_DIGEST_LETTERS]
        return list(texts.values())

    listed(entries, keys, row, json=json, none="the server's repository is empty", needless=("digest",))


@models.command
def load(name: str, /, *, url: Url = DEFAULT_URL, json: Json = False) -> int:
    """Load or reload a model of the server's repository.

    Args:
        name: The model's name.
    """
    return asyncio.run(_change(name, url, json, load=True))


@models.command
def unload(name: str, /, *, url: Url = DEFAULT_URL, json: Json = False) -> int:
    """Unload a model; requests in flight are still answered.

    Args:
        name: The model's name.
    """
    return asyncio.run(_change(name, url, json, load=False))


# The client is imported when a command runs: --help does not wait for numpy.
async def _index(url: str) -> list[dict[str, Any]]:
    from salver.client import Client

    async with Client(url, token=token()) as client:
        return await client.index()


async def _change(name: str, url: str, json: bool, *, load: bool) -> int:
    from salver.client import Client

    async with Client(url, timeout=600, token=token()) as client:
        if load:
            await client.load(name)
        else:
            await client.unload(name)
    done = {True: "loaded", False: "unloaded"}[load]
    result({"name": name, "done": done}, f"{name} is {done}", json=json)
    return 0
