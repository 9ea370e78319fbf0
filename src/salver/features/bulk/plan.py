"""Plan of a bulk job: rows, columns, and the identity of the job.

It knows the job, the model's metadata and the source's columns; it sends no requests.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from salver.client.encoding import specs
from salver.encoding.lenient import sequence
from salver.features.bulk.ask import Model
from salver.features.bulk.formats import format_of
from salver.features.bulk.rows import Field, is_batched
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec

_ROWS: Final = 256
#: Maximum bytes of a request with fixed-size rows, unless the caller chooses.
_REQUEST_BYTES: Final = 4 << 20
_EDGE: Final = 64 * 1024


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk job.

    Attributes:
        model: Name of the model.
        source: Input file; its suffix determines the format.
        target: Output file; likewise.
        version: Empty = chosen by the server.
        outputs: Requested outputs; empty = all.
        columns: By input, its columns if they are named differently.
        keep: Columns of the source to copy to the target.
        rows: Maximum rows per request; 0 = automatic: 256, fewer for large rows, 1 without a batch dimension.
        connections: Number of requests in flight.
        on_error: For a row without an answer, ``stop`` the job, or ``skip`` the row and record it in
            ``TARGET.errors.jsonl``.
        restart: Start again, and replace an existing target.
        patience: Seconds without any answer after which the job stops.
    """

    model: str
    source: Path
    target: Path
    version: str = ""
    outputs: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = {}
    keep: tuple[str, ...] = ()
    rows: int = 0
    connections: int = 4
    on_error: Literal["stop", "skip"] = "stop"
    restart: bool = False
    patience: float = 300.0


class Plan(msgspec.Struct, frozen=True):
    """A job that matches its model.

    Attributes:
        model: The model.
        inputs: Columns of each input in the source.
        outputs: Outputs in the target.
        rows: Maximum rows per request.
        identity: Everything that the answers depend on; must be equal to continue.
    """

    model: Model
    inputs: list[Field]
    outputs: list[Field]
    rows: int
    identity: dict[str, Any]


def make_plan(job: Job, metadata: Mapping[str, Any]) -> Plan:
    """Match the job with the server's metadata of the model.

    Raises:
        InvalidInput: they do not match, or the source cannot be read.
    """
    check_job(job)
    inputs, outputs = specs(metadata, "inputs"), _wanted(specs(metadata, "outputs"), job)
    batched = is_batched(inputs, outputs)
    fields = _fields(inputs, batched, job.columns)
    version = job.version or _newest(metadata)
    names = tuple(spec.name for spec in outputs)
    rows = _rows(job, fields, batched)
    identity = {
        "model": job.model,
        "version": version,
        "source": {"format": format_of(job.source), **fingerprint(job.source)},
        "inputs": [f"{s.name} {s.datatype.name}{list(s.shape)}" for s in inputs],
        "outputs": [f"{s.name} {s.datatype.name}{list(s.shape)}" for s in outputs],
        "columns": {name: list(columns) for name, columns in job.columns.items()},
        "keep": list(job.keep),
        "rows": rows,
    }
    model = Model(job.model, version, names, batched, {spec.name: spec.datatype for spec in inputs})
    return Plan(model, fields, _fields(outputs, batched, {}), rows, identity)


def _newest(metadata: Mapping[str, Any]) -> str:
    """Return the version that the server would choose, so that one version answers all rows."""
    versions = metadata.get("versions")
    numbers = [v for v in sequence(versions) if str(v).isdigit()]
    return str(max(numbers, key=int, default=""))


def check_job(job: Job) -> None:
    """Check the parts of a job that do not depend on the model. Raises InvalidInput."""
    format_of(job.target)
    format_of(job.source)
    if not job.source.is_file():
        what = "does not exist"
        if job.source.exists():
            what = "is not a file that can be read twice"
        raise InvalidInput(f"{job.source} {what}")
    if job.rows < 0 or job.connections < 1:
        raise InvalidInput("rows must be at least 0 and connections at least 1")
    if not job.target.parent.is_dir() or job.target.is_dir():
        raise InvalidInput(f"{job.target} is not a file in a folder that is there")
    if job.target.exists() and job.source.exists() and job.target.samefile(job.source):
        raise InvalidInput(f"{job.target} would replace its own source")
    if len(set(job.keep)) < len(job.keep):
        raise InvalidInput("a column is kept twice")


def _wanted(there: Sequence[TensorSpec], job: Job) -> list[TensorSpec]:
    by_name = {spec.name: spec for spec in there}
    if unknown := [name for name in job.outputs if name not in by_name]:
        raise InvalidInput(
            f"{job.model} has no output {', '.join(unknown)}", fix=f"It has: {', '.join(by_name)}."
        )
    if both := [name for name in job.keep if name in by_name]:
        raise InvalidInput(f"{', '.join(both)} cannot be kept: an output of {job.model} has that name")
    return [by_name[name] for name in dict.fromkeys(job.outputs)] or list(there)


def _fields(
    described: Sequence[TensorSpec], batched: bool, columns: Mapping[str, tuple[str, ...]]
) -> list[Field]:
    if unknown := set(columns) - {spec.name for spec in described}:
        names = ", ".join(spec.name for spec in described)
        raise InvalidInput(f"the model has no input {', '.join(sorted(unknown))}", fix=f"It has: {names}.")
    return [
        Field(spec, spec.shape[1:] if batched else spec.shape, tuple(columns.get(spec.name, ())))
        for spec in described
    ]


def _rows(job: Job, fields: Sequence[Field], batched: bool) -> int:
    """Return the rows per request."""
    if not batched:
        if job.rows > 1:
            raise InvalidInput(
                f"{job.model} has no batch dimension: it is asked row by row, not --rows {job.rows}"
            )
        return 1
    size = sum((field.extent or 1) * field.spec.datatype.dtype.itemsize for field in fields)
    return job.rows or max(1, min(_ROWS, _REQUEST_BYTES // max(size, 1)))


def fingerprint(path: Path) -> dict[str, Any]:
    """Return a fingerprint of a file: size, time, and its first and last 64 KiB.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        stat = path.stat()
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_EDGE))
            file.seek(max(stat.st_size - _EDGE, 0))
            digest.update(file.read(_EDGE))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    return {"bytes": stat.st_size, "changed_ns": stat.st_mtime_ns, "sha256_of_ends": digest.hexdigest()}
