"""Sharing of a handler's weights among its workers.

PyTorch's files hold weights as they are in memory. Those that the handler's modules hold unchanged are mapped
from the file, so that all workers share its pages until one of them writes to its weights. In any unexpected
case the handler keeps its own copy.
"""

import logging
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from salver.dialects.torchserve.backend.memory import trim

_LEAST = 1 << 14  # bytes; fewer pages are not worth a mapping
_HEADER = 30  # of a member, before its name
_MOST = 4096  # mappings; a process may have some 65,000
_log = logging.getLogger(__name__)


def share_weights(entry: Callable[..., Any], file: Path) -> int:
    """Map the weights of a handler's modules from their file; return the number of shared bytes.

    Args:
        entry: The handler's entry: a method, whose object holds modules, or a function beside them.
        file: File that they were loaded from, which must not change any more.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    try:
        held = _weights(entry, torch)
        if not held or not zipfile.is_zipfile(file):
            return 0
        shared = _share(torch, held, np.memmap(file, np.uint8, "c"), _members(file))
    except Exception:
        _log.warning("weights of %s stay as they were loaded", file, exc_info=True)
        return 0
    if shared:
        trim()  # returns the memory of the replaced copies
    return shared


def _weights(entry: Callable[..., Any], torch: Any) -> list[Any]:
    """Return large tensors that a plain copy of their bytes can replace."""
    values = getattr(entry, "__globals__", {})
    if (owner := getattr(entry, "__self__", None)) is not None:
        values = vars(owner)
    modules = [value for value in list(values.values()) if isinstance(value, torch.nn.Module)]
    found = {id(each): each for module in modules for each in (*module.parameters(), *module.buffers())}
    return [each for each in found.values() if _is_plain(each, torch)]


def _is_plain(tensor: Any, torch: Any) -> bool:
    return (
        type(tensor.data) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.is_contiguous()
        and tensor.nbytes >= _LEAST
        and tensor.untyped_storage().nbytes() == tensor.nbytes
    )


def _members(file: Path) -> dict[int, list[int]]:
    """Return the offsets of large uncompressed members, by size."""
    places: dict[int, list[int]] = defaultdict(list)
    with zipfile.ZipFile(file) as archive, file.open("rb") as content:
        for member in archive.infolist():
            if member.compress_type == zipfile.ZIP_STORED and member.file_size >= _LEAST:
                content.seek(member.header_offset)
                header = content.read(_HEADER)
                name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
                places[member.file_size].append(member.header_offset + _HEADER + name + extra)
    return places


def _share(torch: Any, held: list[Any], content: Any, members: dict[int, list[int]]) -> int:
    shared = 0
    with torch.no_grad():
        for tensor in held[:_MOST]:
            own = tensor.detach().view(-1).view(torch.uint8).numpy()
            mapped = next(_alike(own, content, members.get(tensor.nbytes, [])), None)
            if mapped is not None:
                tensor.data = torch.from_numpy(mapped).view(tensor.dtype).view(tensor.shape)
                shared += tensor.nbytes
    return shared


def _alike(own: Any, content: Any, places: list[int]) -> Iterator[Any]:
    """Yield the members with the same bytes, if they are aligned for numbers of any width."""
    for start in places:
        member = content[start : start + len(own)]
        if start % 16 == 0 and len(member) == len(own) and np.array_equal(member, own):
            yield member
