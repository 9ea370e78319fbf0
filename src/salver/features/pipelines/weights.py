"""Arrays of a safetensors file, for the layers after a pooling.

The file has eight bytes with the length of a JSON header, the header with the places of arrays, and these.
"""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from salver.words.errors import LoadFailed
from salver.words.tensor import Array

_MOST_HEADER: Final = 1 << 20
_MOST: Final = 1 << 30
_TYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_header: Final = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode


def read_weights(path: Path) -> dict[str, Array]:
    """Return the arrays of a small file as FP32.

    Raises:
        LoadFailed: it is missing or broken.
    """
    try:
        if path.stat().st_size > _MOST:
            raise ValueError(f"it has more than {_MOST} bytes")
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        if not 0 < size <= min(_MOST_HEADER, len(content) - 8):
            raise ValueError("its header is broken")
        entries = _header(content[8 : 8 + size])
        data = memoryview(content)[8 + size :]
        return {name: _array(entry, data) for name, entry in entries.items() if name != "__metadata__"}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LoadFailed(
            f"{path} cannot be read as safetensors: {error}",
            fix="Save the model with sentence-transformers 2.3 or newer, which writes model.safetensors.",
        ) from error


def _array(entry: dict[str, Any], data: memoryview) -> Array:
    begin, end = entry["data_offsets"]
    raw = np.frombuffer(data[begin:end], _TYPES[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16":  # the upper half of an FP32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
