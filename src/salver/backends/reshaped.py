"""How does a model look to callers who are told other shapes, or fewer outputs, than its own (TR-C4, TR-C5)?

A loaded model as its owner's configuration tells it; the elements and their order are the same. It knows no
framework.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec.structs import replace

from salver.artifacts import Manifest, Reshape
from salver.backends.protocol import Backend, LoadOptions, RunnableModel
from salver.messages import Signature, TensorSpec
from salver.tensor import Array

Shape = tuple[int, ...]


def load(backend: Backend, manifest: Manifest, options: LoadOptions) -> RunnableModel:
    """As :meth:`Backend.load`, with the shapes and outputs that callers see."""
    config = manifest.config
    reshape = config.reshape
    inputs = tuple(_with_shape(spec, reshape.inputs) for spec in config.inputs)
    outputs = tuple(_with_shape(spec, reshape.outputs) for spec in config.outputs)
    model = backend.load(replace(manifest, config=replace(config, inputs=inputs, outputs=outputs)), options)
    given = {spec.name for spec in ((config.only_outputs and config.outputs) or model.signature.outputs)}
    if not reshape.inputs and not reshape.outputs and len(given) == len(model.signature.outputs):
        return model
    return Reshaped(model, Signature(config.inputs, config.outputs), reshape, given)


class Reshaped:
    """A model behind other shapes.

    Args:
        seen: The shapes that callers see, of at least the tensors of ``reshape``.
        given: Outputs that callers see.
    """

    def __init__(
        self, model: RunnableModel, seen: Signature, reshape: Reshape, given: Collection[str]
    ) -> None:
        self._model = model
        takes = {spec.name: spec.shape for spec in seen.inputs if spec.name in reshape.inputs}
        gives = {spec.name: spec.shape for spec in seen.outputs if spec.name in reshape.outputs}
        own = model.signature
        self.signature = replace(
            own,
            inputs=tuple(_with_shape(spec, takes) for spec in own.inputs),
            outputs=tuple(_with_shape(spec, gives) for spec in own.outputs if spec.name in given),
        )
        self._inputs = {name: (shape, reshape.inputs[name]) for name, shape in takes.items()}
        self._outputs = {name: (reshape.outputs[name], shape) for name, shape in gives.items()}
        self._given = frozenset(given)

    def __repr__(self) -> str:
        return f"<Reshaped {self._model!r}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """As the model's own; the arrays are views where they can be."""
        outputs = self._model.run(_reshaped(inputs, self._inputs))
        return _reshaped({name: outputs[name] for name in outputs if name in self._given}, self._outputs)

    def close(self) -> None:
        """As the model's own."""
        self._model.close()


def _reshaped(arrays: Mapping[str, Array], shapes: Mapping[str, tuple[Shape, Shape]]) -> dict[str, Array]:
    return {
        name: array.reshape(tuple(_filled(array.shape, *shapes[name]))) if name in shapes else array
        for name, array in arrays.items()
    }


def _filled(shape: Iterable[int], before: Shape, after: Shape) -> Iterator[int]:
    """The extents of ``after``, its free ones as ``shape`` has those of ``before``.

    >>> list(_filled((3, 2, 2), (-1, 2, 2), (-1, 4)))
    [3, 4]
    """
    free = iter([extent for extent, spec in zip(shape, before, strict=True) if spec < 0])
    for extent in after:
        yield next(free) if extent < 0 else extent


def _with_shape(spec: TensorSpec, shapes: Mapping[str, Shape]) -> TensorSpec:
    return replace(spec, shape=shapes[spec.name]) if spec.name in shapes else spec
