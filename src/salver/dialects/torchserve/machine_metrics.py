"""How busy is this machine, under the names of TorchServe's metrics (TS-B13)?"""

from collections.abc import Mapping
from typing import Final

from salver.words.errors import MissingExtra

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


def read() -> Mapping[str, float]:
    """Processors since the last look, memory and disk now.

    Raises:
        MissingExtra: psutil is not installed.
    """
    try:
        import psutil
    except ImportError as error:
        raise MissingExtra("torchserve", "torchserve", "psutil") from error
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    return {
        "CPUUtilization": float(psutil.cpu_percent()),
        "DiskAvailable": disk.free / _GIB,
        "DiskUsage": disk.used / _GIB,
        "DiskUtilization": float(disk.percent),
        "MemoryAvailable": memory.available / _MIB,
        "MemoryUsed": memory.used / _MIB,
        "MemoryUtilization": float(memory.percent),
    }
