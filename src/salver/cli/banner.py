"""Text of the start-up block, with calls that can be pasted. Pure."""

import json
import shlex
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from salver import __version__, is_compiled
from salver.lazy import lazy_imports
from salver.words.messages import Signature, State, TensorSpec, VersionStatus
from salver.words.tensor import DataType

with lazy_imports():
    from salver.encoding.placeholders import extents, filled, raw_inputs, zero

if TYPE_CHECKING:
    from salver.ready import ReadyInfo
    from salver.transport.access_check import Changing

COLUMNS: Final = ("model", "version", "state", "backend", "loaded in", "inputs", "reason")
#: What callers from other machines can do, by the rule for changes.
_CHANGING: Final[dict[str, str]] = {
    "open": ", load and unload them",
    "token": "; changes need the token",
    "refused": "; changes are refused, as there is no --api-token-file",
}
_LONGEST_BODY = 300
_NOT_IN_JSON = (DataType.FP16, DataType.BF16)


class Block(msgspec.Struct, frozen=True):
    """The start-up block: a title, the rows of the model table, and the lines below it."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]


def compose(info: "ReadyInfo", *, is_logged: bool = False) -> Block:
    """Return the block for people.

    Args:
        is_logged: The log on the same terminal has said why versions failed.
    """
    rows = tuple(_row(status, info.signatures.get(status.id), is_logged) for status in info.statuses)
    failed = sum(status.state is State.FAILED for status in info.statuses)
    state = "up, but not ready"
    if info.is_ready:
        state = f"ready in {info.seconds:.1f} s"
    if failed:
        state += f"{';' if info.is_ready else ':'} {failed} of {len(rows)} versions failed"
    lines = [state, ""]
    for status in info.statuses:
        if _has_block(status.reason):
            lines = ["", *f"{status.id}: {status.reason}".splitlines(), "", *lines]
    if info.url:
        lines.append(f"  HTTP     {info.url}")
    if info.grpc:
        lines.append(f"  gRPC     {info.grpc}")
    lines += [f"  {name:<8} {url}" for name, url in info.platforms]
    if info.metrics:
        lines.append(f"  metrics  {info.metrics}")
    if info.console:
        lines.append(f"  console  {info.console}")
    if info.url:
        lines.append(f"  API      {info.url}/{'docs/' if info.console else 'openapi.json'}")
    if info.url and (chosen := _choose(info)):
        status, signature = chosen
        name, key = status.id.name, info.needs_key
        command = curl(info.url, name, signature, takes_short=info.takes_short, has_key=key)
        lines += ["", *command.splitlines()]
        address = info.url.partition("//")[2]
        lines += ["", *triton_snippet(address, name, signature, has_key=key).splitlines()]
    refuses = info.refuses_inference
    warnings = [line for host in info.hosts if (line := exposure(host, info.changing, refuses=refuses))]
    if info.needs_key:
        lines += ["", "every request but liveness needs a key (salver keys list): export SALVER_TOKEN=KEY"]
    elif warnings:
        lines += ["", *warnings]
    title = f"salver {__version__}"
    if is_compiled():
        title += " compiled"
    return Block(title, rows, tuple(lines))


def as_record(info: "ReadyInfo") -> dict[str, Any]:
    """Return the block for programs."""
    return {
        "event": "ready",
        "version": __version__,
        "compiled": is_compiled(),
        "url": info.url or None,
        "grpc": info.grpc or None,
        "metrics": info.metrics or None,
        "console": info.console or None,
        "seconds": info.seconds,
        "models": [
            {
                "name": status.id.name,
                "version": status.id.version,
                "state": status.state.value,
                "backend": status.backend,
                "reason": status.reason,
                "bytes": status.bytes,
                "load_seconds": round(status.load_seconds, 3),
            }
            for status in info.statuses
        ],
    }


def exposure(host: str, changing: "Changing", *, refuses: bool = False) -> str:
    """Return who may do what if other machines can connect; else an empty text.

    Args:
        changing: The rule for changes from other machines.
        refuses: Nobody may run a model.
    """
    from salver.transport.access_check import is_loopback

    if is_loopback(host):
        return ""
    who, changes = f"warning: listening on {host}: whoever reaches this machine can", _CHANGING[changing]
    if refuses:
        return f"{who} read, but run no model without --keys-file or --allow-anonymous{changes}"
    return f"{who} use these models{changes}"


def curl(
    url: str, model: str, signature: Signature, *, takes_short: bool = True, has_key: bool = False
) -> str:
    """Return a curl command with a valid body of zeros; a line of Python makes long bodies.

    Args:
        takes_short: The server accepts inputs by name (:mod:`salver.dialects.oip.short_json`).
        has_key: Send the key of the environment.
    """
    specs = signature.inputs
    if signature.task and sum(5 * prod(extents(spec)) for spec in specs) <= _LONGEST_BODY:
        ask = shlex.quote(f"{url}/v1/models/{quote(model, safe='')}")
        if has_key:
            ask = f'-H "authorization: Bearer $SALVER_TOKEN" {ask}'
        return f"curl {ask} -d {shlex.quote(json.dumps(raw_inputs(signature)))}"
    page = shlex.quote(f"{url}/v2/models/{quote(model, safe='')}")
    is_short = takes_short and all(spec.name != "inputs" for spec in specs)
    if has_key:
        page = f'-H "authorization: Bearer $SALVER_TOKEN" {page}'
    if not specs or (not is_short and any(spec.datatype in _NOT_IN_JSON for spec in specs)):
        return f"curl {page}"
    ask = f"curl {page}/infer -d"
    if sum(5 * prod(extents(spec)) + len(spec.name) for spec in specs) <= _LONGEST_BODY:
        body = _short(specs) if is_short else {"inputs": [_zeros(spec) for spec in specs]}
        return f"{ask} {shlex.quote(json.dumps(body, separators=(',', ':')))}"
    if is_short:
        values = ",".join(f"{spec.name!r}:z({extents(spec)},{zero(spec)!r})" for spec in specs)
        program = f"import json; z=lambda s,v:[z(s[1:],v)]*s[0] if s else v; print(json.dumps({{{values}}}))"
    else:
        inputs = ",".join(
            f'dict(name={json.dumps(spec.name)},datatype="{spec.datatype.name}",shape={extents(spec)},'
            f"data=[{zero(spec)!r}]*{prod(extents(spec))})"
            for spec in specs
        )
        program = f"import json; print(json.dumps(dict(inputs=[{inputs}])))"
    return f"python3 -c {shlex.quote(program)} |\n  {ask} @-"


def triton_snippet(address: str, model: str, signature: Signature, *, has_key: bool = False) -> str:
    """Return the same call in Python, with tritonclient."""
    more = headers = ""
    if has_key:
        more, headers = "os, ", ", headers={'authorization': f\"Bearer {os.environ['SALVER_TOKEN']}\"}"
    if any(spec.datatype is DataType.BF16 for spec in signature.inputs):
        more += "ml_dtypes, "
    text = [f"import {more}numpy as np, tritonclient.http as triton", "inputs = []"]
    for spec in signature.inputs:
        shape, kind = extents(spec), spec.datatype.name
        fill = "np.full({}, b'text', object)"
        if kind != "BYTES":
            fill = f"np.zeros({{}}, {_dtype(spec)!r})"
        text.append(f"inputs.append(triton.InferInput({spec.name!r}, {shape}, {kind!r}))")
        text.append(f"inputs[-1].set_data_from_numpy({fill.format(shape)})")
    text.append(f"answer = triton.InferenceServerClient({address!r}).infer({model!r}, inputs{headers})")
    text += [f"print(answer.as_numpy({spec.name!r}))" for spec in signature.outputs[:1]]
    return "\n".join(text)


def _choose(info: "ReadyInfo") -> tuple[VersionStatus, Signature] | None:
    """Return the ready model with the shortest call."""
    able = [
        (status, info.signatures[status.id])
        for status in info.statuses
        if status.state is State.READY and status.id in info.signatures
    ]
    return min(able, key=lambda pair: _size(pair[1].inputs), default=None)


def _size(specs: Sequence[TensorSpec]) -> int:
    return sum(prod(extents(spec)) for spec in specs) + 10_000 * any(
        s.datatype in _NOT_IN_JSON for s in specs
    )


def _row(status: VersionStatus, signature: Signature | None, is_logged: bool) -> tuple[str, ...]:
    specs = signature.inputs if signature else ()
    takes = ", ".join(f"{spec.name} {spec.datatype.name}{list(spec.shape)}" for spec in specs)
    reason = status.reason
    if _has_block(status.reason):
        reason = status.reason.partition("\n")[0]
    reason = " ".join(reason.split())
    if is_logged and status.state is State.FAILED:
        reason = "see above"
    took = ""
    if status.load_seconds:
        took = f"{status.load_seconds:.1f} s"
    return status.id.name, status.id.version, status.state.value, status.backend, took, takes, reason


def _has_block(reason: str) -> bool:
    """Return True for several lines, which a cell of the table would run together."""
    return reason.count("\n") > 1


def _short(specs: Sequence[TensorSpec]) -> dict[str, object]:
    return {spec.name: filled(extents(spec), zero(spec)) for spec in specs}


def _zeros(spec: TensorSpec) -> dict[str, object]:
    shape = extents(spec)
    count = prod(shape)
    data = [zero(spec)] * count if count <= _LONGEST_BODY else [zero(spec)] * _LONGEST_BODY
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": shape, "data": data}


def _dtype(spec: TensorSpec) -> str:
    if spec.datatype is DataType.BF16:
        return "bfloat16"
    return spec.datatype.dtype.name
