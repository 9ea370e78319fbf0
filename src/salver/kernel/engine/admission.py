"""Validation of requests against a model's signature.

Pure: checks a request against a :class:`~salver.words.messages.Signature` and computes which requests may
share a run. Errors also have Triton's texts (TR-R30), because users search for them.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence

import msgspec

from salver.words.errors import InvalidInput, tritons
from salver.words.messages import InferRequest, ModelId, RequestedOutput, Signature, TensorSpec, described
from salver.words.tensor import Array, Tensor

_MOST_SHOWN = 20  # names of outputs
_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended "
    "to each input shape. If you want to specify the full shape including the batch dim in your input dims "
    "config, try setting max_batch_size to zero. See the model configuration docs for more info on "
    "max_batch_size."
)


class _UnknownName(InvalidInput):
    """Name that the model does not have; Triton's text omits the request's id."""


class BoundRequest(msgspec.Struct, frozen=True, gc=False):
    """Valid request with its arrays in the model's order.

    Attributes:
        arrays: In the signature's order; None for an optional input that was left out.
        rows: Extent of axis 0, or 1 for a model without a batch dimension.
        key: Requests with equal keys can be stacked.
        outputs: Names of the requested outputs, in the signature's order.
        request: The original request.
        size: Elements of a row over all inputs; 0 if shapes are fixed.
    """

    arrays: tuple[Array | None, ...]
    rows: int
    key: Hashable
    outputs: tuple[str, ...]
    request: InferRequest
    size: int = 0

    def split(self, most: int) -> "Iterator[BoundRequest]":
        """Yield the request in parts of at most so many rows."""
        for start in range(0, self.rows, most):
            arrays = tuple(None if a is None else a[start : start + most] for a in self.arrays)
            rows = min(most, self.rows - start)
            yield BoundRequest(arrays, rows, self.key, self.outputs, self.request, self.size)


class Admission:
    """Request checker of one model, created when the model is loaded.

    Args:
        model: Name for error texts.
        ragged: Indices of inputs whose extents may differ within a run.
    """

    def __init__(self, model: str, signature: Signature, ragged: Collection[int] = ()) -> None:
        self._model = model
        self._ragged = ragged
        self._specs = signature.inputs
        self._names = tuple(spec.name for spec in signature.inputs)
        self._known = frozenset(self._names)
        self._required = frozenset(spec.name for spec in signature.inputs if not spec.optional)
        self._types = tuple(spec.datatype for spec in signature.inputs)
        self._batched = signature.batched
        first = 1 if signature.batched else 0
        self._first = first
        self._tails = tuple(spec.shape[first:] for spec in signature.inputs)
        self._judges_shapes = signature.judges_shapes
        self._is_fixed = all(-1 not in tail for tail in self._tails) and not any(
            spec.optional or spec.any_rank for spec in signature.inputs
        )
        self._outputs = tuple(spec.name for spec in signature.outputs)
        self._output_set = frozenset(self._outputs)

    def bind(self, request: InferRequest) -> BoundRequest:
        """Check a request and return its arrays in the model's order.

        Raises:
            InvalidInput: an input is unknown, missing, given twice, or of the wrong datatype or
                shape; an output is unknown; inputs differ in rows or have none.
        """
        try:
            arrays = self._arrays(request)
            rows = self._rows(arrays)
        except InvalidInput as error:
            if self._batched and request.any_shape and (said := _unfit(request.inputs)):
                raise InvalidInput(said) from None
            if not isinstance(error, _UnknownName):
                error.about = request.id
            raise
        key: Hashable = None
        size = 0
        if not self._is_fixed or (self._judges_shapes and request.any_shape):
            first = self._first
            key = tails = tuple(None if a is None else a.shape[first:] for a in arrays)
            if self._ragged:
                key = tuple(
                    [t if i not in self._ragged or t is None else len(t) for i, t in enumerate(tails)]
                )
            size = sum([math.prod(tail) for tail in tails if tail is not None]) or 1
        wanted = self._outputs
        if request.outputs:
            asked = [output.name for output in request.outputs]
            if not self._output_set.issuperset(asked):
                self._refuse_output(asked)
            wanted = tuple([name for name in self._outputs if name in asked])
        return BoundRequest(arrays, rows, key, wanted, request, size)

    def asked(
        self,
        bound: BoundRequest,
        id: ModelId,
        deadline: float | None,
        is_gone: Callable[[], bool] | None = None,
    ) -> InferRequest:
        """Return the request with all its outputs named, for models that take requests one by one."""
        inputs = [
            Tensor(spec.name, spec.datatype, array)
            for spec, array in zip(self._specs, bound.arrays, strict=True)
            if array is not None
        ]
        outputs = tuple(map(RequestedOutput, bound.outputs))
        request = bound.request
        return InferRequest(
            id.name,
            tuple(inputs),
            id.version,
            request.id,
            outputs,
            request.parameters,
            request.trace,
            deadline=deadline,
            is_gone=is_gone,
        )

    def _arrays(self, request: InferRequest) -> tuple[Array | None, ...]:
        given = request.inputs
        if tuple([t.name for t in given]) != self._names:
            return self._by_name(request)
        types = self._types
        tails = self._tails
        first = self._first
        fixed = self._is_fixed
        any_shape = self._judges_shapes and request.any_shape
        arrays = []
        for index, tensor in enumerate(given):
            array = tensor.array
            if tensor.datatype is not types[index]:
                self._refuse_type(self._specs[index], tensor.datatype.name)
            if not fixed or array.shape[first:] != tails[index] or array.ndim < first:
                self._check_shape(self._specs[index], array, any_shape)
            arrays.append(array)
        return tuple(arrays)

    def _by_name(self, request: InferRequest) -> tuple[Array | None, ...]:
        given = {tensor.name: tensor for tensor in request.inputs}
        if len(given) != len(request.inputs):
            names = [t.name for t in request.inputs]
            twice = next(n for n in names if names.count(n) > 1)
            raise InvalidInput(f"input '{twice}' already exists in request")
        if not (self._required <= given.keys() and given.keys() <= self._known):
            raise self._unfit_names(given)
        arrays: list[Array | None] = []
        for spec in self._specs:
            tensor = given.get(spec.name)
            if tensor is None:
                arrays.append(None)
                continue
            if tensor.datatype is not spec.datatype:
                self._refuse_type(spec, tensor.datatype.name)
            self._check_shape(spec, tensor.array, self._judges_shapes and request.any_shape)
            arrays.append(tensor.array)
        return tuple(arrays)

    def _unfit_names(self, given: dict[str, Tensor]) -> InvalidInput:
        """Return the error for inputs that are missing or unknown."""
        missing = [s.name for s in self._specs if s.name not in given and not s.optional]
        least = len(self._required)
        unknown = [name for name in given if name not in self._names]
        if not least <= len(given) <= len(self._names) or (missing and not unknown):
            wanted = f"{least} inputs"
            if least < len(self._names):
                wanted = f"number of inputs between {least} and {len(self._names)}"
            text = f"expected {wanted} but got {len(given)} inputs for model '{self._model}'"
            found = f"Got input(s) {_quoted(reversed(given))}"
            lacking = f", and {_quoted(missing)} are missing" if missing else ""
            return tritons(
                InvalidInput(f"{text}. {found}{lacking}", fix=f"It takes: {described(self._specs)}"),
                f"{text}. {found}, "
                # the spelling is Triton's
                f"but missing required input(s) {_quoted(missing) if missing else ']'}. "
                "Please provide all required input(s).",
            )
        text = f"unexpected inference input '{unknown[0]}' for model '{self._model}'"
        return tritons(_UnknownName(text, fix=f"It takes: {described(self._specs)}"), text)

    def _rows(self, arrays: tuple[Array | None, ...]) -> int:
        if not self._batched:
            return 1
        rows = -1
        for index, array in enumerate(arrays):
            if array is None:
                continue
            if rows < 0:
                rows = array.shape[0]
            elif array.shape[0] != rows:
                text = (
                    f"input '{self._names[index]}' batch size does not match other inputs for '{self._model}'"
                )
                counts = f": it has {array.shape[0]} rows, the first input has {rows}"
                raise tritons(InvalidInput(text + counts), text)
        if rows < 1:
            raise InvalidInput(f"inference request batch-size must be >= 1 for '{self._model}'")
        return rows

    def _check_shape(self, spec: TensorSpec, array: Array, any_shape: bool) -> None:
        if (any_shape or spec.any_rank) and array.ndim >= self._first:
            return
        if len(spec.shape) == array.ndim and all(
            want in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
        ):
            return
        note = fix = ""
        if self._batched:
            note, fix = _BATCH_NOTE, "Axis 0 counts the rows of the batch."
            if array.shape == spec.shape[1:]:
                one_row = f" For one row send the shape {[1, *array.shape]}."
                note, fix = note + one_row, fix + one_row
        text = (
            f"unexpected shape for input '{spec.name}' for model '{self._model}'. "
            f"Expected {_brackets(spec.shape)}, got {_brackets(array.shape)}"
        )
        raise tritons(InvalidInput(text, fix=fix), f"{text}. {note}")

    def _refuse_type(self, spec: TensorSpec, got: str) -> None:
        raise InvalidInput(
            f"inference input '{spec.name}' data-type is '{got}', "
            f"but model '{self._model}' expects '{spec.datatype.name}'"
        )

    def _refuse_output(self, wanted: Sequence[str]) -> None:
        unknown = next(name for name in wanted if name not in self._output_set)
        text = f"unexpected inference output '{unknown}' for model '{self._model}'"
        raise tritons(_UnknownName(text, fix=f"It gives: {', '.join(self._outputs[:_MOST_SHOWN])}"), text)


def _unfit(inputs: Sequence[Tensor]) -> str:
    """Return TensorFlow Serving's text for tensors that are not rows of a batch (TF-B1), or empty."""
    if any(not tensor.shape for tensor in inputs):
        return "Batching Run() input tensors must have at least one dimension"
    if len({tensor.shape[0] for tensor in inputs}) > 1:
        return "Batching Run() input tensors must have equal 0th-dimension size"
    return ""


def _quoted(names: Iterable[str]) -> str:
    listed = ",".join(f"'{name}'" for name in names)
    return f"[{listed}]"


def _brackets(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
