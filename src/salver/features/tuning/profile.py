"""Stored measurements of a model.

Records, and their JSON form. Pure: bytes in, bytes out; storage is elsewhere. A profile holds for one
artefact, one backend and one machine: :func:`key_of` identifies the first two, :attr:`Profile.machine` the
third.
"""

import hashlib
import math
from typing import Final

import msgspec

from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput

#: Increased whenever the meaning of a field changes; profiles of other formats are measured again.
FORMAT = 1
_MAX_BYTES = 1 << 20
_MAX_ENTRIES = 4096


class Cell(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """Point of the sweep.

    Attributes:
        instances: Concurrent runs.
        threads: Threads inside one run.
        rows: Rows of each run.
    """

    instances: int
    threads: int
    rows: int


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measurement of a cell with all its instances busy.

    Attributes:
        seconds: Median duration of a run.
        rate: Rows per second over all instances.
    """

    cell: Cell
    seconds: float
    rate: float


class PlacementLaw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batch law of one placement.

    Attributes:
        size: Elements of a row, rounded up to a power of two; 0 = fixed shapes, or those measured.
    """

    instances: int
    threads: int
    law: BatchLaw
    size: int = 0


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Properties of the machine that a measurement depends on.

    Attributes:
        cpu: Model name of the processor.
        cores: Number of cores available to this process.
        versions: Versions of Salver and of the framework's modules.
    """

    cpu: str
    cores: int
    versions: dict[str, str] = {}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All measurements of a model.

    Attributes:
        key: See :func:`key_of`.
        laws: At most one per placement and size of rows.
        measured: Measured cells, in order.
        refused: Cells that could not be run because the model rejects the batch.
        alone_s: Seconds of a run of the smallest size after warm-up.
        when: Unix seconds of the last change.
        format: See :data:`FORMAT`.
    """

    key: str
    machine: Machine
    laws: tuple[PlacementLaw, ...] = ()
    measured: tuple[Measurement, ...] = ()
    refused: tuple[Cell, ...] = ()
    alone_s: float = 0.0
    when: float = 0.0
    format: int = FORMAT

    def law(self, instances: int, threads: int) -> BatchLaw | None:
        """Return the measured law of a placement, or None."""
        return self.laws_by_size(instances, threads).get(0)

    def laws_by_size(self, instances: int, threads: int) -> dict[int, BatchLaw]:
        """Return the laws of a placement, by the elements of a row."""
        return {p.size: p.law for p in self.laws if (p.instances, p.threads) == (instances, threads)}

    def with_law(self, instances: int, threads: int, law: BatchLaw, when: float, size: int = 0) -> "Profile":
        """Return a profile in which this law replaces the placement's old one."""
        place = (instances, threads, size)
        others = [p for p in self.laws if (p.instances, p.threads, p.size) != place]
        placed = PlacementLaw(instances, threads, law, size)
        return msgspec.structs.replace(self, laws=(*others, placed), when=when)


_read_profile: Final = msgspec.json.Decoder(Profile).decode


def key_of(manifest: Manifest, content: str = "") -> str:
    """Return the key of a profile: equal for equal artefacts, backends, objectives and options.

    Args:
        content: Digest of the artefact, or the manifest's fingerprint.
    """
    config = manifest.config
    told = [manifest.backend, content or manifest.fingerprint, *map(repr, sorted(config.options.items()))]
    goal = config.objective  # the rate says how much is asked, not how fast the model is
    told.append(repr((goal.latency_p99_ms, goal.deadline_ms, goal.throughput)))
    told += [repr(spec) for spec in (*config.inputs, *config.outputs)]
    told += [config.instances.runner, str(config.warmup.free_dim), config.warmup.file]
    if config.instances.cpus or config.instances.cpu_quota:
        told += [str(len(config.instances.cpus)), str(config.instances.cpu_quota)]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:32]


def to_bytes(profile: Profile) -> bytes:
    """Return the stored form of a profile."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1)


def from_bytes(content: bytes) -> Profile:
    """Parse a profile written by :func:`to_bytes`.

    Raises:
        InvalidInput: it is too large, broken, of another format, or holds impossible numbers.
    """
    if len(content) > _MAX_BYTES:
        raise InvalidInput(f"a profile of {len(content)} bytes is larger than {_MAX_BYTES}")
    try:
        profile = _read_profile(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not a profile: {error}") from error
    if profile.format != FORMAT:
        raise InvalidInput(f"a profile of format {profile.format}; this version reads {FORMAT}")
    if len(profile.laws) + len(profile.measured) + len(profile.refused) > _MAX_ENTRIES:
        raise InvalidInput(f"a profile of more than {_MAX_ENTRIES} entries")
    if not 0 <= profile.alone_s < math.inf:
        raise InvalidInput("a profile with an impossible time")
    for placed in profile.laws:
        law = placed.law
        numbers = (law.a, law.t0, law.a_beyond, law.error)
        whole = (placed.instances >= 1, placed.threads >= 1, law.kink >= 0, placed.size >= 0)
        if not all(whole) or not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise InvalidInput(f"a profile with an impossible law: {placed}")
    for measured in profile.measured:
        cell = measured.cell
        if min(cell.instances, cell.threads, cell.rows) < 1 or not (
            0 < measured.seconds < math.inf and 0 < measured.rate < math.inf
        ):
            raise InvalidInput(f"a profile with an impossible measurement: {measured}")
    return profile
