"""``salver infer``: what does a model answer to this input, or to every row of this file?"""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from salver.terminal.options import DEFAULT_URL, Inputs, Json, Url, Version
from salver.terminal.output import line, record
from salver.words.errors import InvalidInput

_FILES = ".jsonl, .csv, .tsv, .parquet, .npy or .npz"


def infer(
    model: str,
    /,
    *,
    input: Inputs = (),
    output: Annotated[tuple[str, ...], Parameter(help="An output that is wanted; all without one.")] = (),
    source: Annotated[
        Path | None, Parameter(name="--from", help=f"Ask about every row of this file: {_FILES}.")
    ] = None,
    target: Annotated[
        Path | None,
        Parameter(name="--to", help=f"File that takes the answers to --from: {_FILES}."),
    ] = None,
    columns: Annotated[
        tuple[str, ...],
        Parameter(help="INPUT=COLUMN,COLUMN: columns of --from that hold an input, if not called like it."),
    ] = (),
    keep: Annotated[
        tuple[str, ...], Parameter(help="A column of --from that --to shall have too, a key for instance.")
    ] = (),
    rows: Annotated[int, Parameter(help="Most rows a request with --from; 0 = automatic.")] = 0,
    connections: Annotated[int, Parameter(help="Requests in flight with --from.")] = 4,
    on_error: Annotated[
        Literal["stop", "skip"],
        Parameter(help="What a bad row of --from does; skip notes it in FILE.errors.jsonl beside --to."),
    ] = "stop",
    patience: Annotated[
        float, Parameter(help="Seconds without any answer after which a job with --from gives up.")
    ] = 300.0,
    restart: Annotated[
        bool, Parameter(help="Start a job with --from anew, and replace what --to holds.")
    ] = False,
    model_version: Version = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> int:
    """Ask a model of a running server once, or about every row of a file.

    A job on a file that is interrupted, even by a crash, goes on when the same command is run again.

    Args:
        model: Its name.
    """
    if source is None and target is None:
        return asyncio.run(_infer(model, input, output, model_version, url, json))
    if source is None or target is None or input:
        raise InvalidInput("--from and --to belong together, and --input to neither")
    # Imported when the command runs: numpy and the client would slow --help.
    from salver.features.bulk import Job
    from salver.features.bulk.command import infer_file, parse_columns

    job = Job(
        model=model,
        source=source,
        target=target,
        version=model_version,
        outputs=output,
        columns=parse_columns(columns),
        keep=keep,
        rows=rows,
        connections=connections,
        on_error=on_error,
        restart=restart,
        patience=patience,
    )
    return infer_file(job, url, json=json)


async def _infer(
    model: str, words: tuple[str, ...], outputs: tuple[str, ...], version: str, url: str, json: bool
) -> int:
    # Imported when the command runs: numpy and the client would slow --help.
    from salver.client import Client
    from salver.client.encoding import specs
    from salver.terminal.tensors import parse_inputs, shown, texts

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
