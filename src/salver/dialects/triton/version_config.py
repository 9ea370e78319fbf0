"""What is the configuration of a version, in Triton's form?

The owner's words, and what is known of the version and its place. How it looks,
``dialects/triton/config_view.py`` says.
"""

import msgspec

from salver.dialects.triton.config_view import Facts, as_json, complete
from salver.words.artifacts import Manifest
from salver.words.messages import Signature


def config_of(manifest: Manifest, signature: Signature, instances: int, *, decoupled: bool) -> bytes:
    """The whole ModelConfig of a loaded version, serialised.

    Args:
        instances: Runs at the same time.
        decoupled: It answers in pieces.
    """
    return _config(manifest, signature, instances, _most_rows(manifest, signature), decoupled)


def told(manifest: Manifest, instances: int) -> str:
    """The same of a version that is not loaded yet, as JSON, for a model that may complete it itself."""
    inputs, outputs = manifest.config.inputs, manifest.config.outputs
    free = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    signature = Signature(inputs, outputs, batched=free and bool(inputs and outputs))
    # What a config.pbtxt leaves out is for the model to say.
    most = 0 if manifest.triton else _most_rows(manifest, signature)
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
    return complete(manifest.triton, manifest.id, signature, facts)
