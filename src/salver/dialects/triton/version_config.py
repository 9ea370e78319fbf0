"""Configurations of versions in Triton's form (``config_view.py``)."""

import msgspec

from salver.dialects.triton.config_view import Facts, as_json, complete
from salver.kernel.lifecycle.ports import Absent
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
        try:
            lease = self._lessor.acquire(model, version)
        except Absent as absent:
            if absent.outline is None:
                raise
            found = absent.outline
        else:
            found = lease.servable.outline
            lease.release()
        return config_of(found.manifest, found.signature, found.slots, decoupled=found.is_decoupled)


def config_of(manifest: Manifest, signature: Signature, instances: int, *, decoupled: bool) -> bytes:
    """Return the whole ModelConfig of a loaded version, serialised.

    Args:
        instances: Concurrent runs.
        decoupled: Whether a request may have any number of responses.
    """
    return _config(manifest, signature, instances, _most_rows(manifest, signature), decoupled)


def config_before_load(manifest: Manifest, instances: int) -> str:
    """Return the ModelConfig of a version that is about to be loaded, as JSON; the model may complete it."""
    inputs, outputs = manifest.config.inputs, manifest.config.outputs
    free = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    signature = Signature(inputs, outputs, batched=free and bool(inputs and outputs))
    most_rows = 0
    if not manifest.foreign_config:  # what a config.pbtxt leaves out is for the model to say
        most_rows = _most_rows(manifest, signature)
    return msgspec.json.encode(as_json(_config(manifest, signature, instances, most_rows, False))).decode()


def _most_rows(manifest: Manifest, signature: Signature) -> int:
    batching = manifest.config.batching
    if signature.batched and batching.enabled:
        return batching.max_rows
    return 0


def _config(
    manifest: Manifest, signature: Signature, instances: int, most_rows: int, decoupled: bool
) -> bytes:
    config = manifest.config
    filename, versions = manifest.path.name, config.versions.latest
    if manifest.path.is_dir() and manifest.backend == "python":
        filename = "model.py"
    if config.versions.all or config.versions.specific:
        versions = 0
    facts = Facts(
        manifest.backend,
        filename,
        most_rows,
        config.batching.max_delay_ms,
        config.batching.preferred_rows,
        instances,
        versions,
        decoupled,
        config.sequences,
        config.ensemble,
    )
    return complete(manifest.foreign_config, manifest.id, signature, facts)
