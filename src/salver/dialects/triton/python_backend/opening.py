"""How is a ``TritonPythonModel`` found, told what Triton would tell it, and made?

Knows no wire and no process but its own.
"""

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
from salver.dialects.triton.python_backend import host_server as around
from salver.dialects.triton.python_backend import pb_utils
from salver.dialects.triton.python_backend.config import ModelConfig, finish, known_of, signature_of
from salver.dialects.triton.python_backend.decoupled import DecoupledModel
from salver.dialects.triton.python_backend.model import TritonModel
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed

#: What recognition calls such a file.
FORMAT: Final = "triton_python"
_CLASS: Final = "TritonPythonModel"
_MODULE: Final = "triton_python_backend_utils"
_MEANT = re.compile(rb"^class[ \t]+TritonPythonModel\b", re.MULTILINE)


def is_meant(content: bytes, tree: ast.Module | None) -> bool:
    """True for source that brings ``TritonPythonModel``, or plainly means to.

    Args:
        tree: Its syntax tree; None if it has none.
    """
    if tree is None:
        return bool(_MEANT.search(content))
    return any(_brings(node) for node in tree.body)


def _brings(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name == _CLASS
    if isinstance(node, ast.ImportFrom):
        return any((alias.asname or alias.name) == _CLASS for alias in node.names)
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == _CLASS for target in node.targets
    )


def load(manifest: Manifest, options: LoadOptions) -> TritonModel | DecoupledModel:
    """Run the file, complete the configuration, make a ``TritonPythonModel``, call its ``initialize``.

    Raises:
        LoadFailed: any of it failed, or this is not a process of the model's own.
    """
    if not options.own_process:
        raise LoadFailed(
            f"model '{manifest.id.name}' is one of Triton's Python backend, which needs a process of its own",
            fix='Leave instances.runner out of its configuration, or set it to "process".',
        )
    options_of(manifest, ())
    source = code_of(manifest).resolve()
    folder = source.parent
    home = manifest.path if manifest.code else folder  # of the version
    sys.modules[_MODULE] = pb_utils
    around.connect(options.around, str(folder))
    beside = [] if manifest.code else [str(folder.parent)]
    sys.path += [str(folder), *beside]  # for good: a model may import its neighbours at any time
    config = known_of(manifest, options.config)
    with running(source):
        kind = _model_class(run_file(source, f"{folder.name}.{source.stem}"), source)
        if hasattr(kind, "auto_complete_config"):
            config = _completed(kind, config, source)
        finish(config)
        signature = signature_of(config, manifest)
        arguments = _arguments(manifest, config, home, options.instance)
        model = kind()
        if hasattr(model, "initialize"):
            model.initialize(arguments)
    kind_of = DecoupledModel if pb_utils.using_decoupled_model_transaction_policy(config) else TritonModel
    made = kind_of(model, signature, manifest, arguments["model_instance_name"])
    made.wants_trace = _speaks_of_traces(folder if manifest.code else folder.parent)
    return made


def _speaks_of_traces(folder: Path) -> bool:
    """A module of the model's own may ask requests for their span, which is then to be told with each."""
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


def _completed(kind: Any, config: dict[str, Any], source: Path) -> dict[str, Any]:
    said = kind.auto_complete_config(ModelConfig(config))
    if not isinstance(said, ModelConfig):
        raise LoadFailed(
            f"{source}: auto_complete_config returned {type(said).__name__}",
            fix="Return the object that it was called with.",
        )
    return said.as_dict()


def _arguments(manifest: Manifest, config: dict[str, Any], folder: Path, instance: int) -> dict[str, str]:
    """What ``initialize`` is told; every value is a text (TR-A2)."""
    name, version = manifest.id.name, manifest.id.version
    group, kind = name, "CPU"
    for candidate in config.get("instance_group", ()):
        group, kind = candidate["name"], candidate["kind"].removeprefix("KIND_")
        if instance < candidate["count"]:
            break
        instance -= candidate["count"]
    return {
        "model_config": json.dumps(config),
        "model_instance_kind": kind if kind == "MODEL" else "CPU",
        "model_instance_device_id": "0",
        "model_instance_name": f"{group}_{instance}",
        "model_repository": str(folder.parent if folder.name == version else folder),
        "model_version": version,
        "model_name": name,
    }
