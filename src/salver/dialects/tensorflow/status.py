"""How does TensorFlow Serving's JSON tell of a model: its signatures, and how its versions fare?

The bodies of ``GET /v1/models/{m}`` and ``.../metadata`` (TF-R4, TF-R5), laid out as protobuf prints JSON:
one blank on each level, members of a ``oneof`` last (TF-R29). It knows no route.

Pure.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from salver.dialects.tensorflow.metadata import number_of_version
from salver.dialects.tensorflow.tf_tensor import name_of
from salver.words.errors import NotFound
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus

_STATES: Final[dict[State, str]] = {
    State.NEW: "START",
    State.LOADING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "AVAILABLE",
    State.DRAINING: "UNLOADING",
    State.UNLOADING: "UNLOADING",
    State.GONE: "END",
    State.FAILED: "END",
}


def status(model: str, version: str, rows: Iterable[VersionStatus]) -> list[dict[str, Any]]:
    """``model_version_status``: of the model's versions, or of the one that is that number (X-11).

    Raises:
        NotFound: there is none; TensorFlow Serving's text (TF-R21).
    """
    numbered = [(number_of_version(row.id.version), row) for row in rows]
    numbered.sort(key=lambda pair: (pair[0] is None, pair[0] or 0))
    told = [_status(row) for number, row in numbered if version in ("", str(number))]
    if not told:
        which = f"version {version}" if version else "any versions"
        raise NotFound(f"Could not find {which} of model {model}")
    return told


def _status(row: VersionStatus) -> dict[str, Any]:
    is_bad = row.state is State.FAILED
    return {
        "version": version_of(row.id),
        "state": _STATES[row.state],
        "status": {
            "error_code": "UNKNOWN" if is_bad else "OK",
            "error_message": row.reason if is_bad else "",
        },
    }


def version_of(id: ModelId) -> str:
    """A version as TensorFlow Serving writes it, without zeros in front; other servers' names as they are.

    >>> version_of(ModelId("m", "00000123")), version_of(ModelId("m", "1.0"))
    ('123', '1.0')
    """
    number = number_of_version(id.version)
    return id.version if number is None else str(number)


def metadata(id: ModelId, signature: Signature) -> bytes:
    """The signatures of a version. Its two parts are printed for themselves, as there."""
    signatures = {one.name: _signature(one) for one in (signature, *signature.others)}
    spec = {"name": id.name, "signature_name": "", "version": version_of(id)}
    return b'{\n"model_spec":%b,\n"metadata": {"signature_def": %b}\n}\n' % (
        printed(spec),
        printed({"signature_def": signatures}),
    )


def printed(value: Mapping[str, Any]) -> bytes:
    """JSON as protobuf prints it."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _signature(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": _infos(signature.inputs),
        "outputs": _infos(signature.outputs),
        "method_name": signature.method,
        "defaults": {},
    }


def _infos(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    return {
        spec.name: {
            "dtype": name_of(spec.datatype),
            "tensor_shape": {
                "dim": [] if spec.any_rank else [{"size": str(size), "name": ""} for size in spec.shape],
                "unknown_rank": spec.any_rank,
            },
            "name": spec.tensor or f"{spec.name}:0",
        }
        for spec in specs
    }
