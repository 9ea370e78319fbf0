"""Choice of the models that fronts run themselves. Pure."""

from typing import Final

import msgspec

from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest, ModelConfig

#: Most copies, and most bytes of one on disk: each front has its own in memory.
MOST_COPIES: Final = 32
MOST_BYTES: Final = 256 << 20
#: Settings with which every front can answer by itself, because they need no view of all requests.
_LOCAL: Final = frozenset(
    (
        *("backend", "filename", "inputs", "outputs", "only_outputs", "batching", "instances", "versions"),
        *("labels", "default_label", "warmup", "timeout_ms", "reshape", "bulk", "options"),
    )
)
_DEFAULTS: Final = ModelConfig()


def can_copy(servable: Servable, *, is_native: bool) -> bool:
    """Return whether a front can answer a version's requests by itself.

    Args:
        is_native: The backend runs a fixed graph of compiled code (``Traits.native``).
    """
    capabilities, manifest = servable.capabilities, servable.manifest
    plain = Capabilities(post=capabilities.post, foresee=capabilities.foresee)
    return (
        is_native
        and servable.placement.runner == "thread"
        and servable.signatures is None
        and not servable.signature.is_stateful
        and capabilities.post is not None
        and msgspec.structs.astuple(capabilities) == msgspec.structs.astuple(plain)
        and _is_local(manifest)
    )


def _is_local(manifest: Manifest) -> bool:
    config = manifest.config
    if manifest.brought or manifest.code is not None or manifest.bytes > MOST_BYTES:
        return False
    if config.instances.rate_limits or config.batching.policy == "learned":
        return False
    fields = (field for field in ModelConfig.__struct_fields__ if field not in _LOCAL)
    return all(getattr(config, field) == getattr(_DEFAULTS, field) for field in fields)
