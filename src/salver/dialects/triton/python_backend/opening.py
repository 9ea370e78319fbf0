"""Recognition and loading of a ``TritonPythonModel``."""

import ast
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from salver.backends.loading import options_of
from salver.backends.protocol import LoadOptions
from salver.backends.source import code_of, read_source, run_file, running
from salver.dialects.triton.python_backend import host_server, pb_utils
from salver.dialects.triton.python_backend.config import (
    ModelConfig,
    add_defaults,
    initial_config,
    signature_of,
)
from salver.dialects.triton.python_backend.decoupled import DecoupledModel
from salver.dialects.triton.python_backend.model import TritonModel
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed

_CLASS: Final = "TritonPythonModel"
_MODULE: Final = "triton_python_backend_utils"
_DEFINITION = re.compile(rb"^class[ \t]+TritonPythonModel\b", re.MULTILINE)


def defines_model(content: bytes, tree: ast.Module | None) -> bool:
    """Return whether source defines ``TritonPythonModel``.

    Args:
        tree: Its syntax tree; None if it has a syntax error.
    """
    if tree is None:
        return bool(_DEFINITION.search(content))
    return any(map(_binds_class, tree.body))


def _binds_class(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name == _CLASS
    if isinstance(node, ast.ImportFrom):
        return any((alias.asname or alias.name) == _CLASS for alias in node.names)
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == _CLASS for target in node.targets
    )


def load(manifest: Manifest, options: LoadOptions) -> TritonModel | DecoupledModel:
    """Run the file, complete the configuration, create a ``TritonPythonModel`` and call its ``initialize``.

    Raises:
        LoadFailed: Any of it failed, or this is not the model's own process.
    """
    if not options.own_process:
        raise LoadFailed(
            f"model '{manifest.id.name}' is one of Triton's Python backend, which needs a process of its own",
            fix='Leave instances.runner out of its configuration, or set it to "process".',
        )
    options_of(manifest, ())
    source = code_of(manifest).resolve()
    folder = source.parent
    # A program of a backend lies outside of the version's folder, a model's own program in it.
    version_folder, model_folder = folder, folder.parent
    sys.path.append(str(folder))  # for good: a model may import other modules at any time
    if manifest.code:
        version_folder, model_folder = manifest.path, folder
    else:
        sys.path.append(str(model_folder))
    sys.modules[_MODULE] = pb_utils
    host_server.connect(options.around, str(folder))
    config = initial_config(manifest, options.config)
    with running(source):
        owners = _model_class(run_file(source, f"{folder.name}.{source.stem}"), source)
        if hasattr(owners, "auto_complete_config"):
            config = _complete(owners, config, source)
        add_defaults(config)
        signature = signature_of(config, manifest)
        arguments = _arguments(manifest, config, version_folder, options)
        model = owners()
        if hasattr(model, "initialize"):
            model.initialize(arguments)
    kind: type[TritonModel | DecoupledModel] = TritonModel
    if pb_utils.using_decoupled_model_transaction_policy(config):
        kind = DecoupledModel
    instance = kind(model, signature, manifest, arguments["model_instance_name"])
    instance.wants_trace = _uses_traces(model_folder)
    return instance


def _uses_traces(folder: Path) -> bool:
    """Return whether a module of the model reads spans of requests, which are then passed with each."""
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    own = [Path(file) for file in files if file.startswith(f"{folder}/")]
    return any(b".trace(" in (read_source(file) or b"") for file in own)


def _model_class(module: ModuleType, source: Path) -> type:
    kind = getattr(module, _CLASS, None)
    if not isinstance(kind, type):
        raise LoadFailed(f"{source} defines no class {_CLASS}")
    if not callable(getattr(kind, "execute", None)):
        raise LoadFailed(
            f"{source}: class {_CLASS} has no method execute", fix="Write: def execute(self, requests): ..."
        )
    return kind


def _complete(kind: Any, config: dict[str, Any], source: Path) -> dict[str, Any]:
    returned = kind.auto_complete_config(ModelConfig(config))
    if not isinstance(returned, ModelConfig):
        raise LoadFailed(
            f"{source}: auto_complete_config returned {type(returned).__name__}",
            fix="Return the object that it was called with.",
        )
    return returned.as_dict()


def _arguments(
    manifest: Manifest, config: dict[str, Any], folder: Path, options: LoadOptions
) -> dict[str, str]:
    """Return the arguments of ``initialize``, all of them texts (TR-A2)."""
    name, version, instance = manifest.id.name, manifest.id.version, options.instance
    group, kind = name, "CPU"
    for candidate in config.get("instance_group", ()):
        group, kind = candidate["name"], candidate["kind"].removeprefix("KIND_")
        if instance < candidate["count"]:
            break
        instance -= candidate["count"]
    if options.gpu is not None:
        kind = "GPU"
    elif kind != "MODEL":
        kind = "CPU"
    return {
        "model_config": json.dumps(config),
        "model_instance_kind": kind,
        "model_instance_device_id": str(options.gpu or 0),
        "model_instance_name": f"{group}_{instance}",
        "model_repository": str(folder.parent if folder.name == version else folder),
        "model_version": version,
        "model_name": name,
    }
