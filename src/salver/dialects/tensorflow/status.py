"""JSON about a model's signatures and the states of its versions (TF-R4, TF-R5).

The layout is that of protobuf's JSON: one blank per level, members of a ``oneof`` last (TF-R29). Pure.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from salver.dialects.tensorflow.metadata import STATES
from salver.dialects.tensorflow.tf_tensor import name_of
from salver.dialects.tensorflow.versions import number_of_version
from salver.words.errors import NotFound
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus


def status(model: str, version: str, rows: Iterable[VersionStatus]) -> list[dict[str, Any]]:
    """Return ``model_version_status`` of all versions, or of the one with this number.

    Raises:
        NotFound: There is none; the text is TensorFlow Serving's (TF-R21).
    """
    numbered = [(number_of_version(row.id.version), row) for row in rows]
    numbered.sort(key=lambda pair: (pair[0] is None, pair[0] or 0))
    found = [_status(row) for number, row in numbered if version in ("", str(number))]
    if not found:
        which = f"version {version}" if version else "any versions"
        raise NotFound(f"Could not find {which} of model {model}")
    return found


def _status(row: VersionStatus) -> dict[str, Any]:
    status = {"error_code": "OK", "error_message": ""}
    if row.state is State.FAILED:
        status = {"error_code": "UNKNOWN", "error_message": row.reason}
    return {"version": version_of(row.id), "state": STATES[row.state], "status": status}


def version_of(id: ModelId) -> str:
    """Return a version without leading zeros; one that is no number as it is.

    >>> version_of(ModelId("m", "00000123")), version_of(ModelId("m", "1.0"))
    ('123', '1.0')
    """
    number = number_of_version(id.version)
    return id.version if number is None else str(number)


def metadata(id: ModelId, signature: Signature) -> bytes:
    """Return the signatures of a version. As in TensorFlow Serving, the two parts are printed separately."""
    signatures = {each.name: _signature(each) for each in (signature, *signature.others)}
    spec = {"name": id.name, "signature_name": "", "version": version_of(id)}
    return b'{\n"model_spec":%b,\n"metadata": {"signature_def": %b}\n}\n' % (
        printed(spec),
        printed({"signature_def": signatures}),
    )


def printed(value: Mapping[str, Any]) -> bytes:
    """Return JSON in protobuf's layout."""
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
