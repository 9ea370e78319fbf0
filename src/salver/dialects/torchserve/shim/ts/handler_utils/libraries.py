"""Which libraries does a model need that may not be here?

A model is refused at load with the name of what it lacks; a trace of imports helps nobody (TS-A5, TS-A7).
"""

import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from salver.words.errors import LoadFailed

#: What a message of PyTorch shows of the library that a TorchScript file was made with.
_TRACES: Final[Mapping[str, tuple[str, str]]] = {
    "tensorrt": ("torch_tensorrt", "torch-tensorrt"),
    "ipex": ("intel_extension_for_pytorch", "intel-extension-for-pytorch"),
    "xla": ("torch_xla", "torch-xla"),
    "torchvision": ("torchvision", "torchvision"),
    "torchaudio": ("torchaudio", "torchaudio"),
    "neuron": ("torch_neuronx", "torch-neuronx"),
}


def is_here(module: str) -> bool:
    """Could it be imported? Nothing is."""
    return importlib.util.find_spec(module) is not None


def needed(by: str, module: str, package: str = "") -> Any:
    """A module that a model cannot do without.

    Args:
        by: What needs it, as its owner knows it.
        package: The name to install it by, if it is another.

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
    """Things that a module must have.

    Raises:
        LoadFailed: one is missing; the library is of another version than the handler was written for.
    """
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        version = getattr(
            importlib.import_module(module.__name__.partition(".")[0]), "__version__", "unknown"
        )
        raise LoadFailed(f"{by} needs {module.__name__}.{missing[0]}, which version {version} does not have")
    return [getattr(module, name) for name in names]


def explained(error: RuntimeError, file: str) -> LoadFailed | None:
    """What a TorchScript file lacks that PyTorch cannot read; None = it is something else."""
    text = str(error).lower()
    for trace, (module, package) in _TRACES.items():
        unknown = "unknown" in text or "could not find" in text or "no such" in text
        if trace in text and unknown and not is_here(module):
            return LoadFailed(
                f"{file} was made with the package '{package}', which is not installed",
                fix="Install it beside Salver, or list it in the archive's requirements.",
            )
    return None
