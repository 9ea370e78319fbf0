"""Libraries that a model needs and that may be missing.

Loading fails with the name of the missing package instead of a traceback of imports (TS-A5, TS-A7).
"""

import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from salver.words.errors import LoadFailed

#: Words in PyTorch's messages -> module and package of the library that a TorchScript file was made with.
_TRACES: Final[Mapping[str, tuple[str, str]]] = {
    "tensorrt": ("torch_tensorrt", "torch-tensorrt"),
    "ipex": ("intel_extension_for_pytorch", "intel-extension-for-pytorch"),
    "xla": ("torch_xla", "torch-xla"),
    "torchvision": ("torchvision", "torchvision"),
    "torchaudio": ("torchaudio", "torchaudio"),
    "neuron": ("torch_neuronx", "torch-neuronx"),
}


def is_here(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def needed(by: str, module: str, package: str = "") -> Any:
    """Import a module that a model needs.

    Args:
        by: What needs it, in the owner's terms.
        package: Name of its package, if it differs.

    Raises:
        LoadFailed: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LoadFailed(
            f"{by} needs the package '{package or module.partition('.')[0]}', {_lack(module, error)}",
            fix="Install it beside Salver, or list it in the archive's requirements.",
        ) from error


def _lack(module: str, error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return "which is not installed"
    return f"which cannot be imported: {error}"


def part_of(module: ModuleType, by: str, *names: str) -> list[Any]:
    """Return attributes that a module must have.

    Raises:
        LoadFailed: one is missing, since the library has another version than the handler needs.
    """
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        version = getattr(
            importlib.import_module(module.__name__.partition(".")[0]), "__version__", "unknown"
        )
        raise LoadFailed(f"{by} needs {module.__name__}.{missing[0]}, which version {version} does not have")
    return [getattr(module, name) for name in names]


def explained(error: RuntimeError, file: str) -> LoadFailed | None:
    """Return what a TorchScript file lacks that PyTorch cannot read; None = another error."""
    text = str(error).lower()
    for trace, (module, package) in _TRACES.items():
        unknown = "unknown" in text or "could not find" in text or "no such" in text
        if trace in text and unknown and not is_here(module):
            return LoadFailed(
                f"{file} was made with the package '{package}', which is not installed",
                fix="Install it beside Salver, or list it in the archive's requirements.",
            )
    return None
