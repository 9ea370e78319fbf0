"""``salver infer``: what does a model answer to this input?"""

import asyncio
import time
from typing import Annotated

from cyclopts import Parameter

from salver.cli.options import DEFAULT_URL, Inputs, Json, Url, Version
from salver.cli.output import line, record


def infer(
    model: str,
    /,
    *,
    input: Inputs = (),
    output: Annotated[tuple[str, ...], Parameter(help="An output that is wanted; all without one.")] = (),
    model_version: Version = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> int:
    """Ask a model of a running server once.

    Args:
        model: Its name.
    """
    return asyncio.run(_infer(model, input, output, model_version, url, json))


async def _infer(
    model: str, words: tuple[str, ...], outputs: tuple[str, ...], version: str, url: str, json: bool
) -> int:
    # Imported when the command runs: numpy and the client would slow --help.
    from salver.cli.tensors import parse_inputs, shown, specs, texts
    from salver.client import Client

    async with Client(url) as client:
        described = await client.metadata(model, version)
        inputs = parse_inputs(words, specs(described, "inputs"))
        start = time.perf_counter()
        answer = await client.infer(model, inputs, version=version, outputs=outputs)
        elapsed = (time.perf_counter() - start) * 1e3
    if json:
        values = {name: texts(value) for name, value in answer.items()}
        record({"model": model, "ms": elapsed, "outputs": values})
        return 0
    kinds = {spec.name: spec.datatype.name for spec in specs(described, "outputs")}
    for name, value in answer.items():
        line(f"{name} {kinds.get(name, '')}{list(value.shape)}")
        line(shown(value))
    line(f"{elapsed:.2f} ms")
    return 0
