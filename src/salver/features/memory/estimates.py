"""Estimates of the memory that a version needs. Pure.

Before its first load a version is judged by its format and its size on disk; afterwards by what was measured.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput
from salver.words.sizes import byte_count

_LEAST_BUDGET: Final = 64 << 20
_LEAST_NEED: Final = 1 << 20
_MARGIN: Final = 1.03
_PEAK_MARGIN: Final = 1.1
_MIB: Final = 1 << 20


class Need(NamedTuple):
    """Bytes of a loaded version, and the most while it loads."""

    resident: int
    peak: int


class Framework(NamedTuple):
    """Import that is done once, by the server or by the fork server of hosts with as many threads."""

    backend: str
    runner: str
    threads: int


#: Bytes in memory for each byte on disk, loaded and at most while loading, by format. Measured on models of
#: 134 MB (forests and boosters: 7 to 137): runtimes read a file whole, and keep a packed copy of the weights.
#: ONNX models of 16 MB peak at 2.8 to 3.3 times that.
_FACTORS: Final[Mapping[str, tuple[float, float]]] = {
    "onnx": (1.1, 3.1),
    "torchscript": (1.1, 2.1),
    "torch_export": (1.1, 2.1),
    "savedmodel": (1.2, 2.2),
    "openvino": (2.1, 2.2),
    "litert": (2.1, 2.1),
    "xgboost": (3.0, 4.0),
    "lightgbm": (1.0, 2.0),
}
_USUAL: Final = (1.3, 2.3)
#: Bytes that the first model of a framework adds to a process, in MiB.
_IMPORTS: Final[Mapping[str, int]] = {
    "onnx": 30, "torch": 220, "tensorflow": 640, "openvino": 40, "sklearn": 180, "lightgbm": 170,
    "xgboost": 190, "litert": 15,
}  # fmt: skip


def parse_size(text: str, field: str) -> int:
    """Return the bytes of a size.

    Raises:
        InvalidInput: it is none, or too small for a server.

    >>> parse_size("1.5 GiB", "--memory"), parse_size("512m", "--memory")
    (1610612736, 536870912)
    """
    try:
        size = byte_count(text)
    except ValueError as error:
        raise InvalidInput(f"{error}", field=field, fix="Write it as 8GiB or 512MiB.") from error
    if not _LEAST_BUDGET <= size <= 1 << 60:
        raise InvalidInput(
            f"a budget of {text!r} is not between 64 MiB and 1 EiB",
            field=field,
            fix="Write the unit: 8GiB or 512MiB.",
        )
    return size


def framework_of(manifest: Manifest) -> Framework:
    """Return what is imported for the first version like this one."""
    return Framework(manifest.backend, manifest.config.instances.runner, manifest.config.instances.threads)


def estimate(manifest: Manifest, has_framework: bool) -> Need:
    """Return what a version that was never loaded may need.

    Args:
        has_framework: Its framework has been imported.
    """
    resident, peak = _FACTORS.get(manifest.format, _USUAL)
    extra = 0
    if not has_framework:
        extra = _IMPORTS.get(manifest.backend, 0) * _MIB
    least = _LEAST_NEED
    return Need(int(manifest.bytes * resident) + least + extra, int(manifest.bytes * peak) + least + extra)


def learned(growth: int, peak: int) -> Need:
    """Return the need after a load that was measured.

    Args:
        growth: Bytes by which the processes have grown.
        peak: The most by which they had grown while it loaded; short peaks may be missed.
    """
    resident = max(_LEAST_NEED, with_margin(growth))
    return Need(resident, max(resident, int(peak * _PEAK_MARGIN)))


def with_margin(size: int) -> int:
    """Return measured bytes with what a measurement may miss."""
    return int(size * _MARGIN)


def scaled(usual: Need, earlier: Need, ratio: float) -> Need:
    """Return what a new version may need: by its format, or as much for each byte as an earlier one took.

    >>> scaled(Need(10, 20), Need(100, 150), 1.5)
    Need(resident=150, peak=225)
    """
    return Need(
        max(usual.resident, int(earlier.resident * ratio)), max(usual.peak, int(earlier.peak * ratio))
    )
