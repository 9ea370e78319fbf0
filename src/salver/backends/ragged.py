"""Loading of models with ragged batches (TR-C4, TR-C6).

The model has flat ragged inputs and inputs hidden from callers; callers see the configured signature.
Requests are combined by the engine's ``ragged``. It knows no framework.
"""

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from salver.backends.protocol import Backend, LoadOptions, RunnableModel
from salver.words.artifacts import BatchInput, Manifest
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array


def load(backend: Backend, manifest: Manifest, options: LoadOptions) -> RunnableModel:
    """Load a model with ragged inputs, as :meth:`Backend.load`."""
    config = manifest.config
    ragged = config.ragged
    inner = replace(
        config,
        inputs=tuple(_flat(spec, ragged.inputs) for spec in config.inputs) + tuple(map(_said, ragged.extra)),
        outputs=tuple(_flat(spec, ragged.scatter) for spec in config.outputs),
        batching=replace(config.batching, enabled=False, has_rows=False),
    )
    return RaggedModel(backend.load(replace(manifest, config=inner), options), manifest)


class RaggedModel:
    """A model that runs on combined inputs, with the signature that callers see."""

    def __init__(self, model: RunnableModel, manifest: Manifest) -> None:
        config, own = manifest.config, model.signature
        self._model = model
        wished = {spec.name: spec for spec in config.outputs}
        outputs = config.outputs if config.only_outputs else tuple(wished.get(s.name, s) for s in own.outputs)
        hidden = {extra.target for extra in config.ragged.extra}
        told = {spec.name: spec for spec in config.inputs}
        inputs = tuple(told.get(spec.name, spec) for spec in own.inputs if spec.name not in hidden)
        self.signature = Signature(inputs, outputs, config.batching.has_rows, own.platform, own.max_rows)

    def __repr__(self) -> str:
        return f"<RaggedModel {self._model!r}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the model on combined inputs."""
        return self._model.run(inputs)

    def close(self) -> None:
        """Close the model."""
        self._model.close()


def _flat(spec: TensorSpec, names: Collection[str]) -> TensorSpec:
    if spec.name in names:
        return replace(spec, shape=(-1,), labels=())
    return spec


def _said(extra: BatchInput) -> TensorSpec:
    shape = (-1, -1) if extra.kind == "item_shape" else (-1,)
    return TensorSpec(extra.target, extra.datatype, shape)
