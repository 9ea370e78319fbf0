"""Configurations of versions in Triton's form: what the owner said, and what is known of the version.

Their layout is in ``dialects/triton/config_view.py``.
"""

import msgspec

from salver.dialects.triton.config_view import Facts, as_json, complete
from salver.kernel.serving.ports import Lessor
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest
from salver.words.messages import Signature


class ModelConfigs:
    """Configurations of loaded versions."""

    def __init__(self, lessor: Lessor[Servable]) -> None:
        self._lessor = lessor

    def of(self, model: str, version: str = "") -> bytes:
        """Return a version's ModelConfig, serialised. Raises NotFound or NotReady."""
        lease = self._lessor.acquire(model, version)
        try:
            servable = lease.servable
            decoupled = servable.capabilities.stream is not None
            slots = servable.placement.slots
            return config_of(servable.manifest, servable.signature, slots, decoupled=decoupled)
        finally:
            lease.release()


def config_of(manifest: Manifest, signature: Signature, instances: int, *, decoupled: bool) -> bytes:
    """Return the whole ModelConfig of a loaded version, serialised.

    Args:
        instances: Runs at the same time.
        decoupled: It answers in pieces.
    """
    return _config(manifest, signature, instances, _most_rows(manifest, signature), decoupled)


def told(manifest: Manifest, instances: int) -> str:
    """Return the same of a version that is not loaded yet, as JSON; a model may complete it itself."""
    inputs, outputs = manifest.config.inputs, manifest.config.outputs
    free = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    signature = Signature(inputs, outputs, batched=free and bool(inputs and outputs))
    # What a config.pbtxt leaves out is for the model to say.
    most = 0 if manifest.foreign_config else _most_rows(manifest, signature)
    return msgspec.json.encode(as_json(_config(manifest, signature, instances, most, False))).decode()


def _most_rows(manifest: Manifest, signature: Signature) -> int:
    batching = manifest.config.batching
    return batching.max_rows if signature.batched and batching.enabled else 0


def _config(
    manifest: Manifest, signature: Signature, instances: int, most_rows: int, decoupled: bool
) -> bytes:
    batching, wanted = manifest.config.batching, manifest.config.versions
    facts = Facts(
        manifest.backend,
        "model.py" if manifest.path.is_dir() and manifest.backend == "python" else manifest.path.name,
        most_rows,
        batching.max_delay_ms,
        batching.preferred_rows,
        instances,
        0 if wanted.all or wanted.specific else wanted.latest,
        decoupled,
        manifest.config.sequences,
        manifest.config.ensemble,
    )
    return complete(manifest.foreign_config, manifest.id, signature, facts)
