"""Models with other shapes, or fewer outputs, for callers than their own (TR-C4, TR-C5).

A wrapper around a loaded model according to its configuration; elements and their order are unchanged. It
knows no framework.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from salver.backends.protocol import Answer, Backend, LoadOptions, ReadyModel, RequestModel, RunnableModel
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest, Ragged, Reshape
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import Array, Tensor

with lazy_imports():
    from salver.backends import forest, ragged, tabular
    from salver.backends.hidden import hidden_inputs, hidden_outputs


Shape = tuple[int, ...]


def load(backend: Backend, manifest: Manifest, options: LoadOptions) -> RunnableModel:
    """Load a model with the shapes and outputs that callers see, as :meth:`Backend.load`."""
    if manifest.columns:
        return tabular.load(manifest, lambda plain: load(backend, plain, options))
    config = manifest.config
    # other models receive requests unchanged
    if config.ragged != Ragged() and not backend.traits.reads_config:
        return ragged.load(backend, manifest, options)
    reshape = config.reshape
    inputs = tuple(_with_shape(spec, reshape.inputs) for spec in config.inputs)
    outputs = tuple(_with_shape(spec, reshape.outputs) for spec in config.outputs)
    kept: tuple[TensorSpec, ...] = ()
    if config.sequences.strategy:
        # a side without configuration may be defined by the artefact
        known = (*config.inputs, *config.outputs)
        batched = config.batching.has_rows and all(spec.shape[:1] == (-1,) for spec in known)
        kept = hidden_outputs(config.sequences, batched)
        inputs += hidden_inputs(config.sequences, batched) if inputs else ()
        outputs += kept if outputs else ()
    inner = replace(manifest, config=replace(config, inputs=inputs, outputs=outputs))
    is_forest = config.options.get("interface") == "fil"
    model = forest.load(backend, inner, options) if is_forest else backend.load(inner, options)
    seen = Signature(config.inputs, config.outputs)
    has_reshape = bool(reshape.inputs or reshape.outputs)
    if isinstance(model, RequestModel):  # the artefact may add outputs to the configuration
        if has_reshape:
            return ReshapedRequests(model, seen, reshape)
        return model
    told = (*config.outputs, *kept) if config.only_outputs and config.outputs else model.signature.outputs
    given = {spec.name for spec in told}
    if not has_reshape and len(given) == len(model.signature.outputs):
        return model
    return ReshapedModel(model, seen, reshape, given)


class ReshapedModel:
    """A model with other shapes.

    Args:
        seen: Shapes that callers see, at least for the tensors of ``reshape``.
        given: Outputs that callers see; None = all.
    """

    def __init__(
        self, model: RunnableModel, seen: Signature, reshape: Reshape, given: Collection[str] | None = None
    ) -> None:
        self._model = model
        takes = {spec.name: spec.shape for spec in seen.inputs if spec.name in reshape.inputs}
        gives = {spec.name: spec.shape for spec in seen.outputs if spec.name in reshape.outputs}
        own = model.signature
        self._given = frozenset(given or (spec.name for spec in own.outputs))
        self.signature = replace(
            own,
            inputs=tuple(_with_shape(spec, takes) for spec in own.inputs),
            outputs=tuple(_with_shape(spec, gives) for spec in own.outputs if spec.name in self._given),
            others=(),
        )
        self._inputs = {name: (shape, reshape.inputs[name]) for name, shape in takes.items()}
        self._outputs = {name: (reshape.outputs[name], shape) for name, shape in gives.items()}

    def __repr__(self) -> str:
        return f"<Reshaped {self._model!r}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the model; arrays are views if possible."""
        outputs = self._model.run(_reshaped(inputs, self._inputs))
        return _reshaped({name: outputs[name] for name in outputs if name in self._given}, self._outputs)

    def close(self) -> None:
        """Close the model."""
        self._model.close()


class ReshapedRequests(ReshapedModel):
    """Wrapper for a model that takes requests one by one."""

    _model: RequestModel

    def __init__(self, model: RequestModel, seen: Signature, reshape: Reshape) -> None:
        super().__init__(model, seen, reshape)
        self.wants_trace = getattr(model, "wants_trace", False)
        if isinstance(model, ReadyModel):
            self.is_ready = model.is_ready

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """Answer with the model."""
        asked = [replace(r, inputs=tuple(map(self._taken, r.inputs))) for r in requests]
        return [
            said
            if isinstance(said, SalverError)
            else replace(said, outputs=_reshaped(said.outputs, self._outputs))
            for said in self._model.answer(asked)
        ]

    def _taken(self, tensor: Tensor) -> Tensor:
        array = _reshaped({tensor.name: tensor.array}, self._inputs)[tensor.name]
        return Tensor(tensor.name, tensor.datatype, array)


def in_shape(array: Array, before: Shape, after: Shape) -> Array:
    """Return the array in a shape, as a view if possible; free extents match in order."""
    return array.reshape(tuple(_filled(array.shape, before, after)))


def _reshaped(arrays: Mapping[str, Array], shapes: Mapping[str, tuple[Shape, Shape]]) -> dict[str, Array]:
    return {
        name: in_shape(array, *shapes[name]) if name in shapes else array for name, array in arrays.items()
    }


def _filled(shape: Iterable[int], before: Shape, after: Shape) -> Iterator[int]:
    """Return the extents of ``after``, with its free ones taken from ``shape`` by those of ``before``.

    >>> list(_filled((3, 2, 2), (-1, 2, 2), (-1, 4)))
    [3, 4]
    """
    free = iter([extent for extent, spec in zip(shape, before, strict=True) if spec < 0])
    for extent in after:
        yield next(free) if extent < 0 else extent


def _with_shape(spec: TensorSpec, shapes: Mapping[str, Shape]) -> TensorSpec:
    if spec.name in shapes:
        return replace(spec, shape=shapes[spec.name])
    return spec
