"""TensorFlow Serving's view of a model: its signatures and the states of its versions.

Messages of :mod:`salver.dialects.tensorflow.tf_schema`, which the gRPC side sends as they are and the REST
side as JSON.
It knows no request.

Pure.
"""

from collections.abc import Sequence
from typing import Any, Final

from salver.dialects.tensorflow.tf_schema import build
from salver.dialects.tensorflow.tf_tensor import number_of
from salver.words.errors import NotFound
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus

#: The one field of metadata there is.
SIGNATURE_DEF: Final = "signature_def"
_UNKNOWN: Final = 2  # error.Code
#: ModelVersionStatus.State by ours; a version that failed has ended, with an error.
_STATES: Final = {
    State.NEW: 10,
    State.LOADING: 20,
    State.WARMING: 20,
    State.READY: 30,
    State.DRAINING: 40,
    State.UNLOADING: 40,
    State.GONE: 50,
    State.FAILED: 50,
}
_MOST: Final = 1 << 63


def number_of_version(version: str) -> int | None:
    """The version as a number, None where its owner gave it another name.

    >>> number_of_version("00000123"), number_of_version("1.0")
    (123, None)
    """
    number = int(version) if version.isascii() and version.isdecimal() and len(version) < 40 else _MOST
    return number if number < _MOST else None


def signature_def(signature: Signature) -> Any:
    """A SignatureDef."""
    made = build()["SignatureDef"](method_name=signature.method)
    for specs, infos in ((signature.inputs, made.inputs), (signature.outputs, made.outputs)):
        for spec in specs:
            _write_info(infos[spec.name], spec)
    return made


def _write_info(info: Any, spec: TensorSpec) -> None:
    info.name = spec.tensor or f"{spec.name}:0"
    info.dtype = number_of(spec.datatype)
    shape = info.tensor_shape
    shape.unknown_rank = spec.any_rank
    for extent in () if spec.any_rank else spec.shape:
        shape.dim.add(size=extent)
    shape.SetInParent()


def metadata(id: ModelId, signature: Signature) -> Any:
    """A GetModelMetadataResponse (TF-R5, TF-G10)."""
    messages = build()
    named = messages["SignatureDefMap"]()
    for one in (signature, *signature.others):
        named.signature_def[one.name].CopyFrom(signature_def(one))
    made = messages["GetModelMetadataResponse"]()
    made.model_spec.name = id.name
    if (number := number_of_version(id.version)) is not None:
        made.model_spec.version.value = number
    made.metadata[SIGNATURE_DEF].Pack(named)
    return made


def status(model: str, version: int | None, rows: Sequence[VersionStatus]) -> Any:
    """A GetModelStatusResponse (TF-R4, TF-G11).

    Args:
        version: The one that is asked after; None = all.
        rows: The model's versions, those that have ended as well; of those whose names are no numbers,
            TensorFlow Serving's clients cannot be told.

    Raises:
        NotFound: there is none; TensorFlow Serving's text (TF-R21).
    """
    made = build()["GetModelStatusResponse"]()
    numbered = [(number_of_version(row.id.version), row) for row in rows if row.id.name == model]
    known = [(number, row) for number, row in numbered if number is not None and version in (None, number)]
    for number, row in sorted(known, key=lambda pair: pair[0]):
        is_bad = row.state is State.FAILED
        told = {"error_code": _UNKNOWN, "error_message": row.reason} if is_bad else {}
        made.model_version_status.add(version=number, state=_STATES[row.state], status=told)
    if not made.model_version_status:
        raise NotFound(
            f"Could not find any versions of model {model}"
            if version is None
            else f"Could not find version {version} of model {model}"
        )
    return made
