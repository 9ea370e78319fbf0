"""Messages about a model's signatures and the states of its versions. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from salver.dialects.tensorflow.tf_schema import build
from salver.dialects.tensorflow.tf_tensor import number_of
from salver.dialects.tensorflow.versions import number_of_version
from salver.words.errors import NotFound
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus

#: The only field of metadata.
SIGNATURE_DEF: Final = "signature_def"
_UNKNOWN: Final = 2  # error.Code
#: State -> ModelVersionStatus.State; a version that failed has ended, with an error.
STATES: Final[dict[State, str]] = {
    State.NEW: "START",
    State.LOADING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "AVAILABLE",
    State.DRAINING: "UNLOADING",
    State.UNLOADING: "UNLOADING",
    State.GONE: "END",
    State.FAILED: "END",
}


def signature_def(signature: Signature) -> Any:
    """Return a SignatureDef."""
    message = build()["SignatureDef"](method_name=signature.method)
    for specs, infos in ((signature.inputs, message.inputs), (signature.outputs, message.outputs)):
        for spec in specs:
            _write_info(infos[spec.name], spec)
    return message


def _write_info(info: Any, spec: TensorSpec) -> None:
    info.name = spec.tensor or f"{spec.name}:0"
    info.dtype = number_of(spec.datatype)
    shape = info.tensor_shape
    shape.unknown_rank = spec.any_rank
    shape.SetInParent()
    if not spec.any_rank:
        for extent in spec.shape:
            shape.dim.add(size=extent)


def metadata(id: ModelId, signature: Signature) -> Any:
    """Return a GetModelMetadataResponse (TF-R5, TF-G10)."""
    messages = build()
    named = messages["SignatureDefMap"]()
    for each in (signature, *signature.others):
        named.signature_def[each.name].CopyFrom(signature_def(each))
    answer = messages["GetModelMetadataResponse"]()
    answer.model_spec.name = id.name
    if (number := number_of_version(id.version)) is not None:
        answer.model_spec.version.value = number
    answer.metadata[SIGNATURE_DEF].Pack(named)
    return answer


def status(model: str, version: int | None, rows: Sequence[VersionStatus]) -> Any:
    """Return a GetModelStatusResponse (TF-R4, TF-G11).

    Args:
        version: The version to report; None = all.
        rows: The model's versions, including those that have ended. Versions that are no numbers are left
            out, since the message has no place for them.

    Raises:
        NotFound: There is none; the text is TensorFlow Serving's (TF-R21).
    """
    answer = build()["GetModelStatusResponse"]()
    numbered = [(number_of_version(row.id.version), row) for row in rows if row.id.name == model]
    known = [(number, row) for number, row in numbered if number is not None and version in (None, number)]
    for number, row in sorted(known, key=lambda pair: pair[0]):
        added = answer.model_version_status.add(version=number, state=STATES[row.state], status={})
        if row.state is State.FAILED:
            added.status.error_code, added.status.error_message = _UNKNOWN, row.reason
    if not answer.model_version_status:
        which = "any versions" if version is None else f"version {version}"
        raise NotFound(f"Could not find {which} of model {model}")
    return answer
