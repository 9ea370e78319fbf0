"""Choice of the models whose requests fronts decode, and of the process that runs them. Pure."""

from typing import Final, Literal, NamedTuple

import msgspec

from salver.kernel.engine.engine import Engine
from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.messages import Signature
from salver.words.tensor import DataType

#: Most models that fronts know, and most bytes of a copy on disk: each front has its own in memory.
MOST_MODELS: Final = 32
MOST_BYTES: Final = 256 << 20
#: Rows of the batch that is measured.
ROWS: Final = 8
#: What a request to the home process's engine costs more than one to a copy, in seconds for a request and for
#: a byte of its tensors (``benchmarks/fronts.py``).
HOP_S: Final = 30e-6
BYTE_S: Final = 2.5e-9
#: Settings that need no view of all requests.
_LOCAL: Final = frozenset(
    (
        *("backend", "filename", "inputs", "outputs", "only_outputs", "batching", "instances", "versions"),
        *("labels", "default_label", "warmup", "timeout_ms", "reshape", "bulk", "options"),
    )
)
#: With an objective, requests that can only be late are refused before they are decoded, by the state of the
#: queue: the process that reads them has to have it.
_OBJECTIVE: Final = "objective"
_DEFAULTS: Final = ModelConfig()
#: ``copy`` = each front runs it; ``shared`` = fronts decode, and the home process runs it.
Way = Literal["copy", "shared"]


class Granted(NamedTuple):
    """Version whose requests a front decodes.

    Attributes:
        engine: Key of the home process's engine, which runs them; 0 = the front runs a copy.
        owns_timeout: See :class:`~salver.kernel.serving.capabilities.Capabilities`.
    """

    manifest: Manifest
    signature: Signature
    engine: int = 0
    owns_timeout: bool = False


class Times(NamedTuple):
    """Seconds of a run of one row, and of one of :data:`ROWS`; the bytes of a row's tensors."""

    one: float
    many: float
    size: int


def can_share(servable: Servable) -> bool:
    """Return whether a front can decode a version's requests and have the home process's engine run them."""
    return (
        isinstance(servable.engine, Engine)
        and servable.signatures is None
        and _is_plain(servable.capabilities)
        and _is_local(servable.manifest)
        and servable.manifest.config.objective == _DEFAULTS.objective
        and all(spec.datatype is not DataType.BYTES for spec in servable.signature.inputs)
    )


def can_copy(servable: Servable, *, is_native: bool) -> bool:
    """Return whether a front can answer a version's requests by itself.

    Args:
        is_native: The backend runs a fixed graph of compiled code (``Traits.native``).
    """
    capabilities, manifest = servable.capabilities, servable.manifest
    return (
        is_native
        and servable.placement.runner == "thread"
        and servable.signatures is None
        and not servable.signature.is_stateful
        and _is_plain(capabilities)
        and not (manifest.brought or manifest.code is not None or manifest.bytes > MOST_BYTES)
        and _is_local(manifest)
    )


def way_of(times: Times | None, *, may_copy: bool) -> Way:
    """Return where a version runs: in one place if sharing a run saves a request more than its way there.

    Args:
        times: Measured times; None = the model does not batch or runs are short, so that each request runs
            at once, or it could not be measured.

    >>> way_of(Times(one=374e-6, many=8 * 115e-6, size=2088), may_copy=True)
    'shared'
    >>> way_of(Times(one=7e-3, many=8 * 6.5e-3, size=602_112), may_copy=True)
    'copy'
    """
    if not may_copy:
        return "shared"
    if times is None or times.one - times.many / ROWS <= HOP_S + BYTE_S * times.size:
        return "copy"
    return "shared"


def can_batch(servable: Servable) -> bool:
    """Return whether a run may have :data:`ROWS` rows."""
    batching = servable.manifest.config.batching
    is_wide = min(batching.max_rows or ROWS, servable.signature.max_rows or ROWS) >= ROWS
    return servable.signature.batched and batching.enabled and is_wide


def _is_plain(capabilities: Capabilities) -> bool:
    plain = Capabilities(
        post=capabilities.post, foresee=capabilities.foresee, may_be_long=capabilities.may_be_long
    )
    return capabilities.post is not None and msgspec.structs.astuple(capabilities) == msgspec.structs.astuple(
        plain
    )


def _is_local(manifest: Manifest) -> bool:
    config = manifest.config
    if config.instances.rate_limits or config.batching.policy == "learned":
        return False
    fields = (field for field in ModelConfig.__struct_fields__ if field not in (*_LOCAL, _OBJECTIVE))
    return all(getattr(config, field) == getattr(_DEFAULTS, field) for field in fields)
