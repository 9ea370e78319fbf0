"""Weights of PyTorch programs, mapped from their archives.

A TorchScript archive and an exported program hold each tensor as an uncompressed record. The program gets
tensors that are views of the mapped file: private to the process as soon as it writes to them, shared until
then.
"""

import io
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from salver.words.errors import LoadFailed

_WEIGHTS = "/data/weights/"
_CONFIG = "_weights_config.json"


class _Archive:
    """One archive, mapped as a whole."""

    def __init__(self, torch: Any, path: Path) -> None:
        self._torch = torch
        self._reader = torch._C.PyTorchFileReader(str(path))
        self._bytes = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)

    def tensor(self, record: str, kind: Any, offset: int, size: Any, stride: Any) -> Any:
        """Return a tensor in a record, whose offset is in elements."""
        start = self._reader.get_record_offset(record)
        storage = self._bytes[start : start + self._reader.get_record_size(record)]
        return self._torch.empty(0, dtype=kind).set_(storage, offset, tuple(size), tuple(stride))


def open_script(torch: Any, path: Path) -> Any:
    """Return a TorchScript program whose parameters and buffers are mapped.

    Raises:
        LoadFailed: it has other tensors, which would have to be copied.
    """
    program = torch.jit.load(str(path), map_location="meta").eval()
    wanted = program.state_dict()
    if any(node.kind() == "prim::Constant" and _is_meta(node) for node in _nodes(program)):
        raise _cannot(path, "its graph holds constants")
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        found = dict(_named(_Objects(_Archive(torch, path), torch, archive.read(name)).load(), ""))
    if wanted.keys() - found.keys():
        raise _cannot(path, f"{min(wanted.keys() - found.keys())} is not found")
    if found.keys() - wanted.keys():
        raise _cannot(path, f"{min(found.keys() - wanted.keys())} is neither a parameter nor a buffer")
    program.load_state_dict({name: found[name] for name in wanted}, assign=True)
    return program


def _cannot(path: Path, why: str) -> LoadFailed:
    return LoadFailed(
        f"{path} cannot share its weights: {why}",
        field="options.share_weights",
        fix="Remove the option, or save the program with torch.export.",
    )


def _nodes(program: Any) -> Iterator[Any]:
    ahead = [program.inlined_graph]
    while ahead:
        for node in ahead.pop().nodes():
            ahead += node.blocks()
            yield node


def _is_meta(node: Any) -> bool:
    return node.hasAttribute("value") and node.kindOf("value") == "t" and bool(node.t("value").is_meta)


def map_exported(torch: Any, path: Path, module: Any) -> None:
    """Replace the weights of a loaded exported program by mapped ones.

    Raises:
        LoadFailed: the archive does not hold them as records.
    """
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if _WEIGHTS in n and n.endswith(_CONFIG)]
        if len(names) != 1:
            raise LoadFailed(
                f"{path} cannot share its weights: it was saved by an old version of PyTorch",
                field="options.share_weights",
                fix="Save it again with torch.export.save.",
            )
        records = json.loads(archive.read(names[0]))["config"]
    mapped, files = {}, _Archive(torch, path)
    for name, loaded in module.state_dict().items():
        said = records.get(name)
        if said is None or said.get("use_pickle"):
            continue
        record = f"data/weights/{said['path_name']}"
        whole = files.tensor(record, loaded.dtype, loaded.storage_offset(), loaded.size(), loaded.stride())
        # Reading it once also brings it into memory before the first request.
        if not torch.equal(whole, loaded):
            raise LoadFailed(f"{path}: the record of {name} is not what PyTorch has loaded")
        mapped[name] = whole
    module.load_state_dict(mapped, strict=False, assign=True)


class _Object:
    """An object of the archive's pickle: its attributes, and nothing of its class."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Storage(NamedTuple):
    kind: Any
    record: str


def _named(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _Object) and isinstance(getattr(value, "state", None), Mapping):
        for name, inner in value.state.items():
            yield from _named(inner, f"{prefix}.{name}" if prefix else name)
    elif hasattr(value, "dtype"):
        yield prefix, value


class _Objects(pickle.Unpickler):
    """Unpickler that creates objects of no class, and tensors in the mapped archive."""

    def __init__(self, archive: _Archive, torch: Any, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._archive = archive
        self._torch = torch

    def persistent_load(self, pid: Any) -> _Storage:
        return _Storage(pid[1], f"data/{pid[2]}")

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> Any:
        return self._archive.tensor(storage.record, storage.kind, offset, size, stride)

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Object
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch.jit._pickle":
            return _first
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name.endswith("Storage"):
            return getattr(self._torch, name).dtype
        raise pickle.UnpicklingError(f"{module}.{name}")


def _first(value: Any, *_: Any) -> Any:
    return value
