"""How does a TensorFlow SavedModel run? Through one of its signatures, ``serving_default`` unless told.

Through a session, which reads SavedModels of TensorFlow 1 and 2 alike (also those whose Keras
optimizer today's Keras no longer knows), has thread pools of its own, and gives its memory back
when closed. It knows nothing of batching.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salver.artifacts import Manifest
from salver.backends.content import is_file, protobuf_fields
from salver.backends.loading import framework, is_batched, loading, options_of, override
from salver.backends.outputs import Outputs
from salver.backends.protocol import LoadOptions, Traits
from salver.errors import LoadFailed
from salver.messages import Signature, TensorSpec
from salver.tensor import Array, DataType, datatype_of


class TensorFlowBackend:
    """SavedModel folders.

    Options: ``signature``, the key of the signature to serve.
    """

    name = "tensorflow"
    extra = "tensorflow"
    modules: tuple[str, ...] = ("tensorflow",)
    traits = Traits()

    def recognise(self, path: Path) -> str | None:
        """``savedmodel`` for a folder that holds a ``saved_model.pb`` with a meta graph."""
        proto = path / "saved_model.pb"
        if not is_file(proto):
            return None
        fields = [(number, kind) for number, kind, _ in protobuf_fields(proto, 8)]
        return "savedmodel" if (2, 2) in fields and set(fields) <= {(1, 0), (2, 2)} else None

    def load(self, manifest: Manifest, options: LoadOptions) -> "TensorFlowModel":
        """See :class:`~salver.backends.protocol.Backend`."""
        wish = options_of(manifest, ("signature",))
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        tf = framework(self, "tensorflow")
        tf.get_logger().setLevel("ERROR")  # it advises a loader that cannot read all SavedModels
        key = wish.get("signature", "serving_default")
        v1 = tf.compat.v1
        pools = v1.ConfigProto(
            intra_op_parallelism_threads=options.threads,
            inter_op_parallelism_threads=1,
            use_per_session_threads=True,
        )
        session = v1.Session(graph=tf.Graph(), config=pools)
        try:
            with loading(manifest):
                signatures = v1.saved_model.load(session, ["serve"], str(manifest.path)).signature_def
                if key not in signatures:
                    known = ", ".join(sorted(k for k in signatures if not k.startswith("__"))) or "none"
                    raise LoadFailed(
                        f"{manifest.path} has no signature {key!r}",
                        field="options.signature",
                        fix=f'It has: {known}. Name one in salver.toml: [options] signature = "…".',
                    )
                return TensorFlowModel(tf, session, signatures[key], manifest)
        except BaseException:
            session.close()
            raise


class TensorFlowModel:
    """One signature in a session of its own."""

    def __init__(self, tf: Any, session: Any, chosen: Any, manifest: Manifest) -> None:
        config, graph = manifest.config, session.graph
        inputs = override(_specs(tf, chosen.inputs, config.inputs), config.inputs, "inputs")
        outputs = override(_specs(tf, chosen.outputs, config.outputs), config.outputs, "outputs")
        batched = is_batched(inputs, outputs, config)
        self.signature = Signature(inputs, outputs, batched, "tensorflow_savedmodel")
        self._session: Any = session
        feeds = [graph.get_tensor_by_name(chosen.inputs[s.name].name) for s in inputs]
        fetches = [graph.get_tensor_by_name(chosen.outputs[s.name].name) for s in outputs]
        self._call: Any = session.make_callable(fetches, feed_list=feeds)
        half = tf.bfloat16.as_numpy_dtype
        self._inputs = [(s.name, half if s.datatype is DataType.BF16 else None) for s in inputs]
        self._outputs = [s.name for s in outputs]
        self._check = Outputs(self.signature, manifest.id.name).check

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        feed = [inputs[n] if view is None else inputs[n].view(view) for n, view in self._inputs]
        return self._check(dict(zip(self._outputs, self._call(*feed), strict=True)), inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._call = None
        self._session.close()


def _specs(tf: Any, tensors: Mapping[str, Any], wished: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    shapes = {spec.name: spec.shape for spec in wished}
    specs = []
    for name, info in sorted(tensors.items()):
        kind = tf.dtypes.as_dtype(info.dtype)
        try:
            datatype = DataType.BYTES if kind.name == "string" else datatype_of(kind.as_numpy_dtype)
        except (TypeError, ValueError) as error:
            raise LoadFailed(f"tensor {name!r} is a {kind.name}, which no datatype holds") from error
        if info.tensor_shape.unknown_rank and name not in shapes:
            raise LoadFailed(
                f"tensor {name!r} has no shape in the model",
                fix=f'Declare it in salver.toml: name = "{name}", datatype = "{datatype.name}" and shape.',
            )
        known = tuple(int(d.size) for d in info.tensor_shape.dim)
        specs.append(TensorSpec(name, datatype, shapes[name] if info.tensor_shape.unknown_rank else known))
    return tuple(specs)
