"""Codecs of ``tensorflow.serving.PredictionService`` and ``ModelService`` (TF-G4 to TF-G12).

Each request has a codec of its own, since its errors name the model. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from salver.dialects.tensorflow.faults import tfs_status
from salver.dialects.tensorflow.heads import (
    CLASSIFY,
    REGRESS,
    classes_in,
    head_of,
    outputs_of,
    request_of,
    values_in,
)
from salver.dialects.tensorflow.metadata import SIGNATURE_DEF
from salver.dialects.tensorflow.rules import DEFAULT, TfsRules
from salver.dialects.tensorflow.tf_schema import build, build_unread
from salver.dialects.tensorflow.versions import number_of_version
from salver.encoding import varints
from salver.encoding.bodies import GrpcStatus, Message
from salver.encoding.values import MAX_TENSORS
from salver.kernel.serving.ports import Codec
from salver.words.errors import Code, InvalidInput, NotFound, SalverError, Unsupported
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import Tensor

_READ: Final = build()
#: Method -> name of its request's message.
KINDS: Final = {CLASSIFY: "ClassificationRequest", REGRESS: "RegressionRequest"}
_RESPONSES: Final = {CLASSIFY: "ClassificationResponse", REGRESS: "RegressionResponse"}
_UNREAD: Final = build_unread()
_PredictRequest: Final = _UNREAD["PredictRequest"]
_PredictResponse: Final = _UNREAD["PredictResponse"]


class ModelSpec(msgspec.Struct, frozen=True):
    """Model that a request is for (TF-G4).

    Attributes:
        version: Version; None = the newest, or that of the label.
        label: Label of a version; empty = none.
        signature: Name of the signature; empty = ``serving_default``.
    """

    name: str
    version: int | None = None
    label: str = ""
    signature: str = ""

    def __str__(self) -> str:
        """Return the name in TensorFlow Serving's error texts."""
        if self.version is None:
            return f"Latest({self.name})"
        return f"Specific({self.name}, {self.version})"


def parse(name: str, message: bytes) -> Any:
    """Parse a message, with its large parts left as bytes. Raises InvalidInput."""
    try:
        return _UNREAD[name].FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is not a {name}: {error}") from None


def spec_of(parsed: Any) -> ModelSpec:
    """Return the ``model_spec`` of a request.

    Raises:
        InvalidInput: There is none, or it names no model.
    """
    _require_spec(parsed)
    return read_spec(parsed.model_spec)


def _require_spec(parsed: Any) -> None:
    if not parsed.HasField("model_spec"):
        raise InvalidInput("Missing ModelSpec")


def read_spec(spec: Any, *, may_be_nameless: bool = False) -> ModelSpec:
    """Return a ModelSpec message as a record. Raises InvalidInput if it names no model."""
    if not spec.name and not may_be_nameless:
        raise InvalidInput("ModelSpec has no name specified.")
    match spec.WhichOneof("version_choice"):
        case "version":
            return ModelSpec(spec.name, spec.version.value, "", spec.signature_name)
        case "version_label":
            return ModelSpec(spec.name, None, spec.version_label, spec.signature_name)
    return ModelSpec(spec.name, None, "", spec.signature_name)


def write_spec(spec: Any, response: InferResponse, signature: str) -> None:
    """Fill an empty ModelSpec with the model that answered."""
    spec.name = response.model
    if (number := number_of_version(response.version)) is not None:
        spec.version.value = number
    spec.signature_name = signature or DEFAULT


def not_found(spec: ModelSpec, error: SalverError | None = None) -> NotFound:
    """Return the error that no version can answer (TF-R21), with the reason if it is known."""
    text = f"Servable not found for request: {spec}"
    if error is not None and error.code is Code.NOT_READY:
        text += f": {error}"
    return NotFound(text)


class ModelCodec(Codec[Any, Any]):
    """Base of the codecs of requests to a model."""

    protocol = "tfs-grpc"

    def __init__(self, spec: ModelSpec, rules: TfsRules) -> None:
        self._spec = spec
        self._rules = rules

    def fault(self, error: SalverError) -> GrpcStatus:
        """Return the status of the call; the text is TensorFlow Serving's if it has one."""
        if error.code in (Code.NOT_FOUND, Code.NOT_READY) and not error.is_late:
            return tfs_status(not_found(self._spec, error))
        return tfs_status(error)


class HeadCodec(ModelCodec):
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
        """Return the request.

        Args:
            body: The Input of the request, or the message if it has not been parsed.

        Raises:
            InvalidInput, FailedPrecondition: The signature does not fit the method, or there are no examples.
        """
        if isinstance(body, Message):
            body = parse(self.kind, body.message).input
        head = head_of(signature, self._spec.signature)
        wanted = outputs_of(head, self._method, checks_method=self._rules.checks_method_names)
        return request_of(signature, head, wanted, _examples(body), self._spec.name)

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """Return a ClassificationResponse or a RegressionResponse."""
        answer = _READ[_RESPONSES[self._method]]()
        write_spec(answer.model_spec, response, self._spec.signature)
        write_result(answer.result, self._method, response.outputs, _count(request))
        return answer.SerializeToString()  # type: ignore[no-any-return]


def write_result(result: Any, method: str, outputs: Sequence[Tensor], examples: int) -> None:
    """Fill an empty ClassificationResult or RegressionResult.

    Raises:
        InvalidInput: The outputs are no classes or values.
        Unsupported: A label is no text.
    """
    result.SetInParent()
    if method == REGRESS:
        for value in values_in(outputs, examples).tolist():
            result.regressions.add(value=value)
        return
    found = classes_in(outputs, examples)
    labels = None if found.labels is None else found.labels.tolist()
    scores = None if found.scores is None else found.scores.tolist()
    for row in range(examples):
        add = result.classifications.add().classes.add
        for column in range(len((scores or labels or ())[row])):
            added = add()
            if labels is not None:
                added.label = _text(labels[row][column])
            if scores is not None:
                added.score = scores[row][column]


class TaskCodec(HeadCodec):
    """Codec of one task of a MultiInference (TF-G9), whose answer is an InferenceResult."""

    @property
    def kind(self) -> str:
        """Name of the message that holds the request."""
        return "MultiInferenceRequest"

    def encode(self, request: InferRequest, response: InferResponse) -> Any:
        """Return an InferenceResult message."""
        answer = _READ["InferenceResult"]()
        write_spec(answer.model_spec, response, self._spec.signature)
        result = answer.regression_result
        if self._method == CLASSIFY:
            result = answer.classification_result
        write_result(result, self._method, response.outputs, _count(request))
        return answer


def _count(request: InferRequest) -> int:
    """Return the number of a request's examples."""
    return len(request.inputs[0].array)


def heading(kind: str, message: bytes) -> Any:
    """Parse a large request without its field 2, which holds the inputs.

    Raises:
        InvalidInput: It is no such message, or has more inputs than any model.
    """
    try:
        return parse(kind, varints.apart(message, 2, MAX_TENSORS)[0])
    except ValueError as error:
        raise InvalidInput(f"the message is not a {kind}: {error}") from None


def _text(label: bytes) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError:
        raise Unsupported(
            f"the label {label[:64]!r} is not UTF-8, which this answer's labels must be"
        ) from None


def _examples(given: Any) -> list[bytes]:
    """Return the serialised Examples of an Input, each merged with the context.

    Raises:
        InvalidInput: There are none.
    """
    kind = given.WhichOneof("kind")
    found = list(getattr(given, kind).examples) if kind else []
    if not found:
        raise InvalidInput("Input is empty.")
    if kind == "example_list_with_context" and (context := given.example_list_with_context.context):
        return [context + example for example in found]  # messages that follow each other are merged
    return found


def tasks_of(parsed: Any) -> list[tuple[ModelSpec, str]]:
    """Return the tasks of a parsed MultiInferenceRequest with their methods; the first decides the version.

    Raises:
        InvalidInput: The first names no model.
    """
    if not parsed.tasks:
        raise InvalidInput("ModelSpec has no name specified.")
    read_spec(parsed.tasks[0].model_spec)
    return [(read_spec(task.model_spec, may_be_nameless=True), task.method_name) for task in parsed.tasks]


def check_tasks(tasks: Sequence[tuple[ModelSpec, str]], signature: Signature, rules: TfsRules) -> None:
    """Check that the tasks can be answered together.

    Raises:
        InvalidInput, FailedPrecondition, Unsupported: They cannot, or the model has no such signature.
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
    """Return a MultiInferenceResponse."""
    return _READ["MultiInferenceResponse"](results=results).SerializeToString()  # type: ignore[no-any-return]


def decode_metadata_request(message: bytes) -> ModelSpec:
    """Return the model of a GetModelMetadataRequest (TF-G10).

    Raises:
        InvalidInput: It names no model, no field, or an unknown one.
    """
    parsed = parse("GetModelMetadataRequest", message)
    _require_spec(parsed)
    if not parsed.metadata_field:
        raise InvalidInput("GetModelMetadataRequest must specify at least one metadata_field")
    for field in parsed.metadata_field:
        if field != SIGNATURE_DEF:
            raise InvalidInput(f"Metadata field {field} is not supported")
    return read_spec(parsed.model_spec)


def decode_status_request(message: bytes) -> ModelSpec:
    """Return the model of a GetModelStatusRequest, whose name may be empty.

    Raises:
        InvalidInput: It has no ModelSpec.
    """
    parsed = parse("GetModelStatusRequest", message)
    _require_spec(parsed)
    return read_spec(parsed.model_spec, may_be_nameless=True)


def decode_reload(message: bytes) -> tuple[bytes, list[str]]:
    """Return the serialised ModelServerConfig of a ReloadConfigRequest, and the metrics it names (TF-G12).

    Raises:
        InvalidInput: It has no list of models.
    """
    parsed = parse("ReloadConfigRequest", message)
    if parsed.config.WhichOneof("config") != "model_config_list":
        raise InvalidInput(
            "ServerModelConfig type not supported by HandleReloadConfigRequest."
            " Only ModelConfigList is currently supported"
        )
    return parsed.config.SerializeToString(), list(parsed.metric_names)


def encode_reload(increases: Mapping[str, int]) -> bytes:
    """Return the ReloadConfigResponse of a success."""
    metrics = [{"name": name, "int64_value_increase": value} for name, value in increases.items()]
    answer = _READ["ReloadConfigResponse"](status={}, metric=metrics)
    return answer.SerializeToString()  # type: ignore[no-any-return]
