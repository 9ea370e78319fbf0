"""Metadata of servers and models in the JSON form of the Open Inference Protocol.

The gRPC messages take the same dictionaries.

Pure.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus

#: Extensions of the base protocol, by Triton's names.
EXTENSIONS: Final = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)

#: Extensions that ``--allow-client-shm`` adds.
SHARED_MEMORY: Final = ("system_shared_memory", "cuda_shared_memory")


def server(version: str, name: str = "salver", more: Sequence[str] = ()) -> dict[str, Any]:
    """Return server metadata (OIP-7); ``more`` are extensions that were switched on, in Triton's order."""
    at = EXTENSIONS.index("binary_tensor_data")
    return {"name": name, "version": version, "extensions": [*EXTENSIONS[:at], *more, *EXTENSIONS[at:]]}


def model(id: ModelId, versions: Sequence[str], signature: Signature) -> dict[str, Any]:
    """Return model metadata (OIP-8); a batched model's shapes begin with -1."""
    return {
        "name": id.name,
        "versions": list(versions),
        "platform": signature.platform,
        "inputs": [_spec(spec) for spec in signature.inputs],
        "outputs": [_spec(spec) for spec in signature.outputs],
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}


def ready_versions(statuses: Iterable[VersionStatus], id: ModelId, version: str) -> list[str]:
    """Return the requested version, or all versions of the model that are ready.

    Args:
        id: Version that would answer; it alone if none is in memory.
    """
    if version:
        return [version]
    ready = [s.id.version for s in statuses if s.id.name == id.name and s.state is State.READY]
    return ready or [id.version]
