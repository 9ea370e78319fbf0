"""Codec of PredictRequest and PredictResponse.

Callers repeat the same names, types and shapes. What surrounds the numbers is therefore parsed once
(:mod:`salver.encoding.known_forms`), and answers are assembled from pieces. Pure.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from salver.dialects.tensorflow import tf_tensor
from salver.dialects.tensorflow.grpc_codec import ModelCodec, ModelSpec, parse, spec_of, write_spec
from salver.dialects.tensorflow.rules import DEFAULT, TfsRules
from salver.dialects.tensorflow.tf_schema import build, build_unread
from salver.encoding import varints
from salver.encoding.bodies import Message
from salver.encoding.known_forms import LONGEST, Form, KnownForms, form_of, holds
from salver.words.errors import FailedPrecondition, InvalidInput
from salver.words.messages import InferRequest, InferResponse, RequestedOutput, Signature
from salver.words.tensor import Tensor

_NAMED: Final = 12  # bytes: two before a ModelSpec and those after it that cannot belong to a number
#: Fields of a TensorProto whose values have numpy's layout.
_PLAIN: Final = frozenset((4, 5, 6))  # tensor_content, float_val, double_val
#: Fields of inputs that count in is_slow; values with numpy's layout are only viewed.
_OUTLINE: Final[varints.Outline] = {1: {}, 2: {2: {0: _PLAIN, 2: {2: {}}}}}
#: Size of a message that is parsed quickly, whatever it holds, in bytes.
_LARGE: Final = 1 << 16
_ABOUT: Final = frozenset((1, 2, 3))  # dtype, tensor_shape, version_number
_SPEC: Final = b"\x12"  # field 2 of a PredictResponse
_OUTPUT: Final = b"\x0a"  # field 1, an entry of outputs: its key is field 1, too,
_VALUE: Final = b"\x12"  # and its value field 2


class _KnownRequest(msgspec.Struct, frozen=True, gc=False):
    """A message without its numbers, and the request that it was for a signature.

    Attributes:
        around: Pieces around the numbers with their offsets; the first one begins the message.
        at: Offset of the first number.
    """

    around: tuple[tuple[int, bytes], ...]
    spec: ModelSpec
    signature: Signature
    form: Form
    key: str
    at: int


class PredictMessage(msgspec.Struct, gc=False):
    """A PredictRequest of which only the model is known."""

    message: bytes
    known: _KnownRequest | None
    parsed: Any


class PredictMessages:
    """Reader of PredictRequests that remembers their forms."""

    def __init__(self) -> None:
        self._known: KnownForms[tuple[int, bytes], _KnownRequest] = KnownForms()

    def read(self, message: bytes) -> tuple[ModelSpec, PredictMessage]:
        """Return the model of a message, and the rest for :class:`Predict`.

        Raises:
            InvalidInput: It is no PredictRequest, or names no model.
        """
        known = self._known.get(_key(message))
        if known is not None and holds(message, known.around):
            return known.spec, PredictMessage(message, known, None)
        parsed = parse_predict(message)
        return spec_of(parsed), PredictMessage(message, None, parsed)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as an empty reader for another process."""
        return (PredictMessages, ())

    def knows(self, message: bytes) -> bool:
        """Return whether the message has the form of an earlier one: its numbers are only viewed."""
        known = self._known.get(_key(message))
        return known is not None and holds(message, known.around)

    def is_slow(self, message: bytes) -> bool:
        """Return whether parsing this large message would block the loop."""
        if self.knows(message):
            return False
        try:
            count, weight = varints.weigh(message, _OUTLINE, varints.MOST_FIELDS)
        except ValueError:
            return True
        return count > varints.MOST_FIELDS or weight > _LARGE

    def learn(
        self, body: PredictMessage, spec: ModelSpec, signature: Signature, request: InferRequest
    ) -> None:
        """Remember the form of a parsed request, if it has one."""
        key = _key(body.message)
        before = self._known.get(key)
        if before is not None and before.signature is signature:
            return  # another form with the same key; one is kept
        new = _known(body.message, spec, signature, request)
        if new is not None:
            self._known.add(key, new)


def _key(message: bytes) -> tuple[int, bytes]:
    """Return size and model of a message, which are equal for one form and usually differ between forms."""
    return len(message), message[: _NAMED + message[1] if len(message) > 1 else 0]


def _known(
    message: bytes, spec: ModelSpec, signature: Signature, request: InferRequest
) -> _KnownRequest | None:
    try:
        places = _places(message)
    except ValueError:
        return None
    if len(places) != len(request.inputs) or not all(
        tensor.name in places and _lies_at(places[tensor.name], tensor, message) for tensor in request.inputs
    ):
        return None
    inputs = sorted(request.inputs, key=lambda tensor: places[tensor.name])
    spans = [places[tensor.name] for tensor in inputs]
    edges = [0, *itertools.chain.from_iterable(spans), len(message)]
    around = tuple(
        (begin, message[begin:end]) for begin, end in zip(edges[::2], edges[1::2], strict=True) if begin < end
    )
    gaps = [begin - end for (_, end), (begin, _) in itertools.pairwise(spans)]
    found = form_of(InferRequest(request.model, tuple(inputs), outputs=request.outputs), gaps)
    if found is None or sum(len(piece) for _, piece in around) > LONGEST:
        return None
    parts = {part.name: part for part in found.parts}
    form = Form(tuple([parts[tensor.name] for tensor in request.inputs]), found.outputs, found.size)
    return _KnownRequest(around, spec, signature, form, request.signature, spans[0][0])


def _lies_at(place: tuple[int, int], tensor: Tensor, message: bytes) -> bool:
    begin, end = place
    return end - begin == tensor.array.nbytes and message[begin:end] == tensor.array.tobytes()


def _places(message: bytes) -> dict[str, tuple[int, int]]:
    """Return the span of each input's numbers; none unless all inputs have numpy's layout.

    Raises:
        ValueError: It is no message.
    """
    places: dict[str, tuple[int, int]] = {}
    for number, begin, end in varints.fields(message, 0, len(message)):
        if number != 2:
            continue
        entry = list(varints.fields(message, begin, end))
        if [field for field, _, _ in entry] != [1, 2]:
            return {}
        (_, *name), (_, *value) = entry
        values = [field for field in varints.fields(message, *value) if field[0] not in _ABOUT]
        key = message[slice(*name)].decode()
        if len(values) != 1 or values[0][0] not in _PLAIN or key in places:
            return {}
        places[key] = values[0][1:]
    return places


def parse_predict(message: bytes) -> Any:
    """Parse a PredictRequest; numbers that are not packed become packed. Raises InvalidInput."""
    parsed = parse("PredictRequest", message)
    if any(len(UnknownFieldSet(tensor)) for tensor in parsed.inputs.values()):
        try:
            packed = build()["PredictRequest"].FromString(message).SerializeToString()
        except DecodeError as error:
            raise InvalidInput(f"the message is not a PredictRequest: {error}") from None
        return build_unread()["PredictRequest"].FromString(packed)
    return parsed


class Predict(ModelCodec):
    """Codec of PredictionService.Predict (TF-G5, TF-G6).

    Args:
        messages: Learns the forms of requests.
    """

    def __init__(self, spec: ModelSpec, rules: TfsRules, messages: PredictMessages) -> None:
        super().__init__(spec, rules)
        self._messages = messages

    def decode(self, body: PredictMessage | Message, signature: Signature) -> InferRequest:
        """Return the request.

        Raises:
            FailedPrecondition: The model has no such signature.
            InvalidInput: An input or output is wrong; the error names it.
            TooLarge, Unsupported: See :func:`~salver.dialects.tensorflow.tf_tensor.read`.
        """
        if isinstance(body, Message):
            body = PredictMessage(body.message, None, None)
        known = body.known
        if known is not None and known.signature is signature:
            inputs = known.form.tensors(body.message, known.at)
            return InferRequest(
                self._spec.name, inputs, outputs=known.form.outputs, signature=known.key, any_shape=True
            )
        parsed = body.parsed
        if body.parsed is None:
            parsed = parse_predict(body.message)
        key = self._spec.signature or DEFAULT
        chosen = signature.named(key)
        if chosen is None:
            raise FailedPrecondition(f'Serving signature key "{key}" not found.')
        request = InferRequest(
            self._spec.name,
            _inputs(parsed.inputs, chosen),
            outputs=_filter(parsed.output_filter, chosen),
            signature="" if chosen is signature else key,
            any_shape=True,
        )
        self._messages.learn(body, self._spec, signature, request)
        return request

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """Return a PredictResponse."""
        as_content = self._rules.answers_as_content
        parts: list[bytes] = []
        for tensor in response.outputs:
            value = tf_tensor.to_bytes(tensor.datatype, tensor.array, as_content=as_content)
            head = _entry_head(tensor.name)
            size = varints.one(len(value))
            parts += (_OUTPUT, varints.one(len(head) + len(size) + len(value)), head, size, value)
        parts.append(_spec_field(response.model, response.version, self._spec.signature))
        return b"".join(parts)


@lru_cache(maxsize=4096)
def _entry_head(name: str) -> bytes:
    """Return the beginning of an entry of outputs, up to the length of its value."""
    key = name.encode()
    return b"".join((b"\x0a", varints.one(len(key)), key, _VALUE))


@lru_cache(maxsize=4096)
def _spec_field(model: str, version: str, signature: str) -> bytes:
    """Return the field ``model_spec`` of a PredictResponse."""
    spec = build()["ModelSpec"]()
    write_spec(spec, InferResponse(model, version, ()), signature)
    content = spec.SerializeToString()
    return b"".join((_SPEC, varints.one(len(content)), content))


def _inputs(given: Mapping[str, Any], signature: Signature) -> tuple[Tensor, ...]:
    """Return the tensors; their names are checked against the signature before any is read."""
    specs = signature.inputs
    has_defaults = any(spec.optional for spec in specs)
    if len(given) > len(specs) or (len(given) < len(specs) and not has_defaults):
        raise _wrong_size(set(given), {spec.name for spec in specs})
    missing = next((spec for spec in specs if spec.name not in given and not spec.optional), None)
    if missing is not None:
        raise InvalidInput(
            f"Signature input alias: {missing.name}(feed name: {missing.tensor or missing.name}) not found "
            "in request and no default value provided. Inputs expected to be in the request "
            f"{{{_joined(given)}}}, or default input alias set: "
            f"{_joined(spec.name for spec in specs if spec.optional)}"
        )
    used = [spec for spec in specs if spec.name in given]
    if len(used) < len(given):
        raise InvalidInput(
            "Inputs contains invalid name. Used request inputs: "
            f"{_joined(spec.name for spec in used)}, request input: {_joined(given)}"
        )
    budget = tf_tensor.FillBudget()
    tensors = []
    for index, spec in enumerate(used):
        tensor = tf_tensor.read(given[spec.name], spec.name, budget)
        if tensor.datatype is not spec.datatype:
            raise InvalidInput(
                f"Expects arg[{index}] to be {tf_tensor.word_of(spec.datatype)} but "
                f"{tf_tensor.word_of(tensor.datatype)} is provided"
            )
        tensors.append(tensor)
    return tuple(tensors)


def _wrong_size(given: set[str], wanted: set[str]) -> InvalidInput:
    return InvalidInput(
        f"input size does not match signature: {len(given)}!={len(wanted)} len({{{_joined(given)}}}) != "
        f"len({{{_joined(wanted)}}}). Sent extra: {{{_joined(given - wanted)}}}. "
        f"Missing but required: {{{_joined(wanted - given)}}}."
    )


def _filter(wanted: Sequence[str], signature: Signature) -> tuple[RequestedOutput, ...]:
    known = {spec.name for spec in signature.outputs}
    seen: set[str] = set()
    for alias in wanted:
        if alias not in known:
            raise InvalidInput(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{_joined(known)}}}."
            )
        if alias in seen:
            raise InvalidInput(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return tuple([RequestedOutput(alias) for alias in wanted])


def _joined(names: Any) -> str:
    return ",".join(sorted(names))
