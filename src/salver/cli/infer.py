"""``salver infer``: send one request, or every row of a file, to a model."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from salver.terminal.options import DEFAULT_URL, Inputs, Json, Url, Version, token
from salver.terminal.output import line, record
from salver.words.errors import InvalidInput

_FILES = ".jsonl, .csv, .tsv, .parquet, .npy or .npz"

_File = Annotated[
    Path | None,
    Parameter(help="File to send as raw inputs: an image, a text, CSV, Parquet; its ending tells which."),
]
_Text = Annotated[str | None, Parameter(help="Text to send as raw inputs.")]
_RawJson = Annotated[str, Parameter(help='Raw inputs as JSON: \'{"question": "…", "context": "…"}\'.')]
_Csv = Annotated[Path | None, Parameter(help="File with CSV to send as raw inputs.")]
_Parameters = Annotated[str, Parameter(help="Parameters beside raw inputs, as JSON: '{\"top_k\": 2}'.")]


def infer(
    model: str,
    /,
    *,
    input: Inputs = (),
    file: _File = None,
    text: _Text = None,
    inputs: _RawJson = "",
    csv: _Csv = None,
    parameters: _Parameters = "",
    output: Annotated[tuple[str, ...], Parameter(help="Output to return (default: all).")] = (),
    source: Annotated[
        Path | None, Parameter(name="--from", help=f"File whose rows are sent: {_FILES}.")
    ] = None,
    target: Annotated[
        Path | None,
        Parameter(name="--to", help=f"File for the answers to --from: {_FILES}."),
    ] = None,
    columns: Annotated[
        tuple[str, ...],
        Parameter(help="INPUT=COLUMN,COLUMN: columns of --from for an input (default: the one of its name)."),
    ] = (),
    keep: Annotated[tuple[str, ...], Parameter(help="Column of --from to copy to --to, such as a key.")] = (),
    rows: Annotated[int, Parameter(help="Most rows in each request of --from; 0 = automatic.")] = 0,
    connections: Annotated[int, Parameter(help="Requests of --from in flight at the same time.")] = 4,
    on_error: Annotated[
        Literal["stop", "skip"],
        Parameter(help="On a bad row: stop, or skip it and note it in FILE.errors.jsonl beside --to."),
    ] = "stop",
    patience: Annotated[
        float, Parameter(help="Give up a job with --from after this many seconds without an answer.")
    ] = 300.0,
    restart: Annotated[
        bool, Parameter(help="Start a job with --from from its first row, and overwrite --to.")
    ] = False,
    model_version: Version = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> int:
    """Send a request to a model of a running server, or every row of a file.

    Models with a task, pipelines and models of tables take raw inputs: --file, --text, --inputs or --csv.
    Their answer is a table on a terminal and JSON in a pipe.

    A job on a file that was interrupted, even by a crash, continues when the same command is run again.

    Args:
        model: The model's name.
    """
    # Imported when the command runs: numpy and the client would slow --help.
    from salver.cli.infer_raw import RawInputs, infer_raw

    raw = RawInputs(file, csv, text, inputs, parameters)
    if raw.are_given:
        if input or output or source or target:
            raise InvalidInput("raw inputs do not go with --input, --output, --from and --to")
        return infer_raw(model, raw, model_version, url, json=json)
    if source is None and target is None:
        return asyncio.run(_infer(model, input, output, model_version, url, json))
    if source is None or target is None or input:
        raise InvalidInput("--from and --to need each other, and do not go with --input")
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

    async with Client(url, token=token()) as client:
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
