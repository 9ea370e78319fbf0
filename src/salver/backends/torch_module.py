"""PyTorch modules whose class is in a Python file beside the weights.

Triton's ``runtime: "model.py"``: one class of the file is a ``torch.nn.Module`` without constructor
arguments. It runs only in a process of its own.
"""

import inspect
import zipfile
from pathlib import Path
from typing import Any

from salver.backends.protocol import LoadOptions
from salver.backends.source import importable, run_file, running
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed

_NAME = "salver_torch_module"


def open_module(
    torch: Any, manifest: Manifest, options: LoadOptions, file: str, sharing: str
) -> tuple[Any, list[str]]:
    """Return the module with its weights, and the names of the arguments of its ``forward``.

    Args:
        file: Name of the Python file beside the weights.
        sharing: Map the weights if they have the form for it; empty = copy them.

    Raises:
        LoadFailed: the file or its class is invalid, or the weights do not match it.
    """
    if not options.own_process:
        raise LoadFailed(
            f"model '{manifest.id.name}' is a Python program, which needs a process of its own",
            fix='Set instances.runner to "process".',
        )
    if not manifest.config.inputs or not manifest.config.outputs:
        raise LoadFailed(
            f"model '{manifest.id.name}' is a Python program, and does not say which tensors it takes",
            fix="Declare its inputs and outputs.",
        )
    source = manifest.path.with_name(file)
    if not source.is_file():
        raise LoadFailed(f"{source} is missing, which holds the class of the weights beside it")
    with running(source), importable(source.parent.resolve(), _NAME):
        kinds = [
            value
            for value in vars(run_file(source, _NAME)).values()
            if isinstance(value, type) and issubclass(value, torch.nn.Module) and value.__module__ == _NAME
        ]
        if len(kinds) != 1:
            found = ", ".join(kind.__name__ for kind in kinds) or "none"
            raise LoadFailed(f"{source} must define one subclass of torch.nn.Module, and has: {found}")
        module = kinds[0]()
        _load_weights(torch, module, manifest.path, sharing)
    return module.eval(), list(inspect.signature(module.forward).parameters)


def _load_weights(torch: Any, module: Any, path: Path, sharing: str) -> None:
    is_zip = zipfile.is_zipfile(path)  # older files cannot be mapped
    weights = torch.load(path, map_location="cpu", weights_only=True, mmap=bool(sharing) and is_zip)
    own = module.state_dict()
    # Copying converts numbers to the module's own type, taking over the mapped tensors does not.
    is_alike = all(name in own and value.dtype == own[name].dtype for name, value in weights.items())
    module.load_state_dict(weights, assign=bool(sharing) and is_zip and is_alike)
