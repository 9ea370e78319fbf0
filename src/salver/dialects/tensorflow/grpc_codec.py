"""Codecs of TensorFlow Serving's gRPC messages.

Those of ``tensorflow.serving.PredictionService`` and ``ModelService`` (TF-G4 to TF-G12). A codec is made for
each request, as its errors name the model that was asked for. It knows no frame, stream or status.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from salver.dialects.tensorflow.faults import tfs_status
from salver.dialects.tensorflow.heads import (
    CLASSIFY,
    DEFAULT,
    INPUTS,
    REGRESS,
    classes_in,
    head_of,
    outputs_of,
    values_in,
)
from salver.dialects.tensorflow.metadata import SIGNATURE_DEF, number_of_version
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.tf_schema import build, build_unread
from salver.encoding import varints
from salver.encoding.bodies import GrpcStatus, Message
from salver.encoding.values import MAX_TENSORS
from salver.kernel.serving.ports import Codec
from salver.words.errors import Code, InvalidInput, NotFound, SalverError, Unsupported
from salver.words.messages import InferRequest, InferResponse, RequestedOutput, Signature
from salver.words.tensor import DataType, Tensor

_READ: Final = build()
#: What is asked -> name of the message that asks it.
KINDS: Final = {CLASSIFY: "ClassificationRequest", REGRESS: "RegressionRequest"}
_UNREAD: Final = build_unread()
_PredictRequest: Final = _UNREAD["PredictRequest"]
_PredictResponse: Final = _UNREAD["PredictResponse"]


class ModelSpec(msgspec.Struct, frozen=True):
    """Whom a request is for (TF-G4).

    Attributes:
        version: None = the newest, or that of the label.
        label: Empty = none.
        signature: Empty = ``serving_default``.
    """

    name: str
    version: int | None = None
    label: str = ""
    signature: str = ""

    def __str__(self) -> str:
        """As TensorFlow Serving's error texts name it."""
        return f"Latest({self.name})" if self.version is None else f"Specific({self.name}, {self.version})"


def parse(name: str, message: bytes) -> Any:
    """A message whose large parts are left as bytes.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return _UNREAD[name].FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is no {name}: {error}") from None


def spec_of(parsed: Any) -> ModelSpec:
    """The ``model_spec`` of a request.

    Raises:
        InvalidInput: there is none, or it names no model.
    """
    if not parsed.HasField("model_spec"):
        raise InvalidInput("Missing ModelSpec")
    return read_spec(parsed.model_spec)


def read_spec(spec: Any, *, may_be_nameless: bool = False) -> ModelSpec:
    """Raises InvalidInput: it names no model."""
    if not spec.name and not may_be_nameless:
        raise InvalidInput("ModelSpec has no name specified.")
    match spec.WhichOneof("version_choice"):
        case "version":
            return ModelSpec(spec.name, spec.version.value, "", spec.signature_name)
        case "version_label":
            return ModelSpec(spec.name, None, spec.version_label, spec.signature_name)
    return ModelSpec(spec.name, None, "", spec.signature_name)


def write_spec(made: Any, response: InferResponse, signature: str) -> None:
    """Fill an empty ModelSpec with who answered."""
    made.name = response.model
    if (number := number_of_version(response.version)) is not None:
        made.version.value = number
    made.signature_name = signature or DEFAULT


def not_found(spec: ModelSpec, error: SalverError | None = None) -> NotFound:
    """What TensorFlow Serving says where no version can answer (TF-R21), and ours why it is not ready."""
    why = f": {error}" if error is not None and error.code is Code.NOT_READY else ""
    return NotFound(f"Servable not found for request: {spec}{why}")


class ForOne(Codec[Any, Any]):
    """What the codecs have in common: whom the request is for."""

    protocol = "tfs-grpc"

    def __init__(self, spec: ModelSpec, rules: TfsRules) -> None:
        self._spec = spec
        self._rules = rules

    def fault(self, error: SalverError) -> GrpcStatus:
        """The status of the call, in TensorFlow Serving's words where it has some."""
        if error.code in (Code.NOT_FOUND, Code.NOT_READY) and not error.is_late:
            return tfs_status(not_found(self._spec, error))
        return tfs_status(error)


class Head(ForOne):
    """Codec of Classify and Regress (TF-G8).

    Args:
        method: :data:`~salver.dialects.tensorflow.heads.CLASSIFY` or
            :data:`~salver.dialects.tensorflow.heads.REGRESS`.
    """

    def __init__(self, spec: ModelSpec, rules: TfsRules, method: str) -> None:
        super().__init__(spec, rules)
        self._method = method

    @property
    def kind(self) -> str:
        """Name of the message that holds the request."""
        return KINDS[self._method]

    def decode(self, body: Any, signature: Signature) -> InferRequest:
        """The request in the Input of a parsed ClassificationRequest, RegressionRequest or the like.

        Args:
            body: The Input, or the message that nobody has parsed.

        Raises:
            InvalidInput, FailedPrecondition: the signature is not made for that, or there are no examples.
        """
        if isinstance(body, Message):
            body = parse(self.kind, body.message).input
        head = head_of(signature, self._spec.signature)
        wanted = outputs_of(head, self._method, checks_method=self._rules.checks_method_names)
        examples = _examples(body)
        values = np.empty(len(examples), dtype=object)
        values[:] = examples
        return InferRequest(
            self._spec.name,
            (Tensor(INPUTS, DataType.BYTES, values),),
            outputs=tuple(map(RequestedOutput, wanted)),
            signature="" if head is signature else head.name,
            any_shape=True,
        )

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """A ClassificationResponse or a RegressionResponse."""
        is_classes = self._method == CLASSIFY
        made = _READ["ClassificationResponse" if is_classes else "RegressionResponse"]()
        write_spec(made.model_spec, response, self._spec.signature)
        write_result(made.result, self._method, response.outputs, _count(request))
        return made.SerializeToString()  # type: ignore[no-any-return]


def write_result(made: Any, method: str, outputs: Sequence[Tensor], examples: int) -> None:
    """Fill an empty ClassificationResult or RegressionResult with what an answer says.

    Raises:
        InvalidInput: the outputs have not the form of classes or values.
        Unsupported: a label is no text.
    """
    made.SetInParent()
    if method == REGRESS:
        for value in values_in(outputs, examples).tolist():
            made.regressions.add(value=value)
        return
    found = classes_in(outputs, examples)
    labels = None if found.labels is None else found.labels.tolist()
    scores = None if found.scores is None else found.scores.tolist()
    for row in range(examples):
        add = made.classifications.add().classes.add
        for column in range(len((scores or labels or ())[row])):
            one = add()
            if labels is not None:
                one.label = _text(labels[row][column])
            if scores is not None:
                one.score = scores[row][column]


class Task(Head):
    """Codec of one task of a MultiInference (TF-G9), whose answer is an InferenceResult."""

    @property
    def kind(self) -> str:
        """Name of the message that holds the request."""
        return "MultiInferenceRequest"

    def encode(self, request: InferRequest, response: InferResponse) -> Any:
        """A message, to be put into the answer of them all."""
        made = _READ["InferenceResult"]()
        write_spec(made.model_spec, response, self._spec.signature)
        result = made.classification_result if self._method == CLASSIFY else made.regression_result
        write_result(result, self._method, response.outputs, _count(request))
        return made


def _count(request: InferRequest) -> int:
    """Examples of a request."""
    return len(request.inputs[0].array)


def heading(kind: str, message: bytes) -> Any:
    """A large request without its field 2, in which its inputs are.

    Raises:
        InvalidInput: it is none, or has more inputs than any model.
    """
    try:
        return parse(kind, varints.apart(message, 2, MAX_TENSORS)[0])
    except ValueError as error:
        raise InvalidInput(f"the message is no {kind}: {error}") from None


def _text(label: bytes) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError:
        raise Unsupported(
            f"the label {label[:64]!r} is not UTF-8, as this answer's labels have to be"
        ) from None


def _examples(given: Any) -> list[bytes]:
    """The serialised Examples of an Input, the context merged into each.

    Raises:
        InvalidInput: there are none.
    """
    kind = given.WhichOneof("kind")
    found = list(getattr(given, kind).examples) if kind else []
    if not found:
        raise InvalidInput("Input is empty.")
    if kind == "example_list_with_context" and (context := given.example_list_with_context.context):
        return [context + example for example in found]  # two messages in a row are one, merged
    return found


def tasks_of(parsed: Any) -> list[tuple[ModelSpec, str]]:
    """The tasks of a parsed MultiInferenceRequest, with their methods; the first says which version answers.

    Raises:
        InvalidInput: it names no model.
    """
    if not parsed.tasks:
        raise InvalidInput("ModelSpec has no name specified.")
    read_spec(parsed.tasks[0].model_spec)
    return [(read_spec(task.model_spec, may_be_nameless=True), task.method_name) for task in parsed.tasks]


def check_tasks(tasks: Sequence[tuple[ModelSpec, str]], signature: Signature, rules: TfsRules) -> None:
    """Do the tasks go together?

    Raises:
        InvalidInput, FailedPrecondition, Unsupported: they do not, or the model has no such signature.
    """
    names: set[str] = set()
    for spec, method in tasks:
        if not spec.name:
            raise InvalidInput("Found ModelSpec with an empty model name.")
        if spec.name != tasks[0][0].name:
            raise InvalidInput("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        key = spec.signature or DEFAULT
        if key in names:
            raise InvalidInput(f"Duplicate evaluation of signature: {key}")
        names.add(key)
        head = signature.named(key)
        if head is None:
            raise InvalidInput(f"Requested signature not found in model graph: {key}")
        outputs_of(head, method, checks_method=rules.checks_method_names)


def encode_results(results: Sequence[Any]) -> bytes:
    """A MultiInferenceResponse."""
    return _READ["MultiInferenceResponse"](results=results).SerializeToString()  # type: ignore[no-any-return]


# The other methods.


def decode_metadata_request(message: bytes) -> ModelSpec:
    """Whom a GetModelMetadataRequest asks after (TF-G10).

    Raises:
        InvalidInput: it names no model, no field, or one that is not known.
    """
    parsed = parse("GetModelMetadataRequest", message)
    if not parsed.HasField("model_spec"):
        raise InvalidInput("Missing ModelSpec")
    if not parsed.metadata_field:
        raise InvalidInput("GetModelMetadataRequest must specify at least one metadata_field")
    for field in parsed.metadata_field:
        if field != SIGNATURE_DEF:
            raise InvalidInput(f"Metadata field {field} is not supported")
    return read_spec(parsed.model_spec)


def decode_status_request(message: bytes) -> ModelSpec:
    """Whom a GetModelStatusRequest asks after; it may have no name, which no model has.

    Raises:
        InvalidInput: it has no ModelSpec.
    """
    parsed = parse("GetModelStatusRequest", message)
    if not parsed.HasField("model_spec"):
        raise InvalidInput("Missing ModelSpec")
    return read_spec(parsed.model_spec, may_be_nameless=True)


def decode_reload(message: bytes) -> tuple[bytes, list[str]]:
    """The serialised ModelServerConfig of a ReloadConfigRequest, and the metrics that it asks after (TF-G12).

    Raises:
        InvalidInput: it has no list of models.
    """
    parsed = parse("ReloadConfigRequest", message)
    if parsed.config.WhichOneof("config") != "model_config_list":
        raise InvalidInput(
            "ServerModelConfig type not supported by HandleReloadConfigRequest."
            " Only ModelConfigList is currently supported"
        )
    return parsed.config.SerializeToString(), list(parsed.metric_names)


def encode_reload(increases: Mapping[str, int]) -> bytes:
    """A ReloadConfigResponse of one that went well."""
    metrics = [{"name": name, "int64_value_increase": value} for name, value in increases.items()]
    made = _READ["ReloadConfigResponse"](status={}, metric=metrics)
    return made.SerializeToString()  # type: ignore[no-any-return]
