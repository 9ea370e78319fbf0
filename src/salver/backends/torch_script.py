"""TorchScript archives: programs that are opened while other threads run, and what is told of them.

``torch.jit.load`` holds the interpreter from the first line of code to the last weight. Here PyTorch reads
the code through a file of Python's, which gives way at each read, and weights are read without the
interpreter.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

#: Where ``torch.package`` keeps programs: only from there PyTorch reads one through a file of Python's.
_PACKED: Final = ".data/ts_code/"
_PICKLES: Final = ("constants.pkl", "data.pkl")
#: An attribute, or a tensor or list in place, is changed.
_CHANGES: Final = re.compile(r"\.\w+ = |\w_\(|torch\.(append|insert|extend|pop|clear|_set_item|Delete)")
_ASSIGNS: Final = re.compile(r"\.\w+ = ")
_FUNCTION: Final = re.compile(r"^(?:  )?def (\w+)\(", re.MULTILINE)
_NAMED: Final = re.compile(r"\.(\w+)")


class _Yielding(io.BytesIO):
    """Bytes in memory; other threads may run at each read, which only code in Python lets them do."""

    def readinto(self, buffer: Any) -> int:
        return super().readinto(buffer)


def open_in_parts(torch: Any, path: Path) -> Any:
    """Return a program as ``torch.jit.load`` does; None = only that can.

    Tensors that are constants have the names of weights, PyTorch before 1.4 had another layout, and weights
    that are compressed may be larger than they seem.
    What still holds the interpreter is PyTorch's last step, in which it looks for old forms of quantised
    convolutions in each module.

    Raises:
        zipfile.BadZipFile: the archive is cut short, or a record is not what was written.
    """
    code, weights = _Yielding(), torch._C.DeserializationStorageContext()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(code, "w") as copy:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        if any(name.startswith("constants/") or name == "model.json" for name in members):
            return None
        records = [member for name, member in members.items() if name.startswith("data/")]
        if any(member.compress_type != zipfile.ZIP_STORED for member in records):
            return None
        for name, member in members.items():
            if name.startswith("data/") and member.file_size:
                record = torch.frombuffer(archive.read(member), dtype=torch.uint8)
                # A copy of its own, made without the interpreter: bytes cannot be written to.
                weights.add_storage(name.removeprefix("data/"), record.clone())
            elif name.startswith("code/"):
                copy.writestr(f"all/{_PACKED}{name}", archive.read(member))
            elif name in _PICKLES:
                copy.writestr(f"all/{_PACKED}0/{name}", archive.read(member))
            elif name == "version":
                copy.writestr(f"all/{name}", archive.read(member))
    code.seek(0)
    program = torch._C._import_ir_module_from_package(
        torch._C.CompilationUnit(), torch._C.PyTorchFileReader(code), weights, torch.device("cpu"), "0"
    )
    return torch.jit._recursive.wrap_cpp_module(program)


def changes(path: Path) -> tuple[bool, bool]:
    """Return whether a program's code changes values that it may keep, and whether it assigns to attributes.

    The code is that of all functions with a name that is used in another one, from ``forward`` on. The
    program's graph, with all calls inlined, would tell it as well, but holds the interpreter half as long as
    loading does.
    """
    bodies: dict[str, list[str]] = {}
    for text in _sources(path):
        _, *parts = _FUNCTION.split(text)
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            bodies.setdefault(name, []).append(body)
    used, ahead = [], {"forward"}
    while ahead:
        for body in bodies.pop(ahead.pop(), ()):
            used.append(body)
            ahead.update(bodies.keys() & _NAMED.findall(body))
    return any(map(_CHANGES.search, used)), any(map(_ASSIGNS.search, used))


def _sources(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.partition("/")[2].startswith("code/") and name.endswith(".py"):
                yield archive.read(name).decode()


class _Examples(pickle.Unpickler):
    """Unpickler for shapes and types of a trace's tensors; creates only empty tensors."""

    def __init__(self, torch: Any, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._torch = torch

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]

    def find_class(self, module: str, name: str) -> Any:
        torch = self._torch
        if name == "_rebuild_tensor_v2":
            return lambda kind, _, size, *rest: torch.empty(size, dtype=kind, device="meta")
        if name == "restore_type_tag":
            return lambda value, _: value
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name).dtype
        raise pickle.UnpicklingError(f"{module}.{name}")


def traced_inputs(torch: Any, path: Path) -> tuple[Any, ...]:
    """Return the example inputs that ``torch.jit.trace`` stored, or none."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/traced_inputs.pkl"):
                try:
                    return tuple(_Examples(torch, archive.read(name)).load().get("forward", ()))
                except Exception:  # unknown form: the inputs must be declared
                    return ()
    return ()
