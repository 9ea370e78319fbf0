"""How does a model look to callers who send and get its tensors in other shapes (TR-C4, TR-C5)?

A loaded model in the shapes that its owner's configuration tells callers; the elements and their order are
the same. It knows no framework.
"""

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from salver.artifacts import Manifest
from salver.backends.protocol import Backend, LoadOptions, RunnableModel
from salver.messages import Signature, TensorSpec
from salver.tensor import Array

Shape = tuple[int, ...]


def load(backend: Backend, manifest: Manifest, options: LoadOptions) -> RunnableModel:
    """As :meth:`Backend.load`, in the shapes that callers see."""
    config = manifest.config
    reshape = config.reshape
    if not reshape.inputs and not reshape.outputs:
        return backend.load(manifest, options)
    inputs = tuple(_with_shape(spec, reshape.inputs) for spec in config.inputs)
    outputs = tuple(_with_shape(spec, reshape.outputs) for spec in config.outputs)
    own = replace(manifest, config=replace(config, inputs=inputs, outputs=outputs))
    model = backend.load(own, options)
    seen = Signature(config.inputs, config.outputs)
    return Reshaped(model, seen, reshape.inputs, reshape.outputs)


class Reshaped:
    """A model behind other shapes.

    Args:
        seen: The shapes that callers see, of at least the tensors that follow.
        inputs, outputs: The model's own, by tensor. Free extents are as many as in ``seen``, and stand for
            the same numbers in the same order.
    """

    def __init__(
        self, model: RunnableModel, seen: Signature, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]
    ) -> None:
        self._model = model
        takes = {spec.name: spec.shape for spec in seen.inputs if spec.name in inputs}
        gives = {spec.name: spec.shape for spec in seen.outputs if spec.name in outputs}
        own = model.signature
        self.signature = replace(
            own,
            inputs=tuple(_with_shape(spec, takes) for spec in own.inputs),
            outputs=tuple(_with_shape(spec, gives) for spec in own.outputs),
        )
        self._inputs = {name: (shape, inputs[name]) for name, shape in takes.items()}
        self._outputs = {name: (outputs[name], shape) for name, shape in gives.items()}

    def __repr__(self) -> str:
        return f"<Reshaped {self._model!r}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """As the model's own; the arrays are views where they can be."""
        return _reshaped(self._model.run(_reshaped(inputs, self._inputs)), self._outputs)

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
