"""Opening of a handler: import, context and initialisation.

From an unpacked archive, in a process of its own: the folder becomes the working directory, and the first
place of imports after the shim that holds ``ts``.
"""

import importlib
import importlib.util
import json
import logging
import os
import re
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from salver.backends.loading import framework
from salver.backends.protocol import Backend, LoadOptions
from salver.backends.source import running
from salver.dialects.torchserve.backend.memory import keep_memory
from salver.dialects.torchserve.backend.recognising import MANIFEST
from salver.dialects.torchserve.backend.weights import share_weights
from salver.encoding.plain_yaml import read_yaml
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.handlers import Workers

if TYPE_CHECKING:
    from ts.context import Context
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

_SHIM: Final = Path(__file__).parent.parent / "shim"
_MAX_TEXT = 4 << 20  # of a manifest or a configuration
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HANDLERS, _ENVELOPES = "ts.torch_handler", "ts.torch_handler.request_envelope"


class Handler(msgspec.Struct, frozen=True):
    """A handler that is ready.

    Attributes:
        entry: Called with the data of a run and the context.
        context: Context of TorchServe.
        take_metrics: Returns the lines that its metrics have written since the last call.
    """

    entry: Callable[[Any, Any], Any]
    context: "Context"
    take_metrics: Callable[[], tuple[str, ...]]


def open_handler(manifest: Manifest, options: LoadOptions, backend: Backend) -> Handler:
    """Import and initialise the handler in a folder.

    Raises:
        LoadFailed: that failed.
        MissingExtra: a configuration needs PyYAML, which is not installed.
    """
    folder, knobs = manifest.path.resolve(), manifest.config.options
    content = _manifest(folder)
    about = (content or {}).get("model", {})
    _check_runtime(manifest, content)
    spec = knobs.get("handler") or about.get("handler") or ""
    if not isinstance(spec, str) or not spec:
        raise LoadFailed(f"{folder / MANIFEST} names no handler", field="handler", fix="Set options.handler.")
    yaml_config = _yaml_config(folder, about, backend)
    _settle(folder)
    keep_memory()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    metrics = _metrics(manifest, knobs.get("metrics_config", ""), backend)
    context = _context(manifest, content, yaml_config, metrics, options)
    with running(folder / spec.partition(":")[0]):
        try:
            own, initialise = _entry_of(spec, folder)
            entry = own
            if envelope := about.get("envelope") or knobs.get("envelope"):
                entry = _envelope(envelope)(own).handle
            initialise(context)
        except (Exception, SystemExit) as error:
            traceback.print_exception(error)  # for the log
            raise
    # Mapped files must not change, so only those that the server has unpacked are shared.
    if about.get("serializedFile") and _is_unpacked(manifest):
        share_weights(own, folder / str(about["serializedFile"]))
    from ts.metrics.lines import LINES

    return Handler(entry, context, LINES.take)


def _is_unpacked(manifest: Manifest) -> bool:
    """Return whether the server has unpacked the model, so that its owner cannot write to it."""
    return manifest.home != Path() and not manifest.path.is_relative_to(manifest.home)


def _settle(folder: Path) -> None:
    """Make the folder the working directory and a place of imports."""
    os.chdir(folder)
    places = [str(_SHIM), str(folder)]
    sys.path[:] = [*places, *(place for place in sys.path if place not in places)]
    importlib.invalidate_caches()  # the folder may be newer than the cache of its finder


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_TEXT + 1)
        if len(content) > _MAX_TEXT:
            raise LoadFailed(f"{path} is larger than {_MAX_TEXT >> 20} MiB")
        return content.decode()
    except (OSError, ValueError) as error:
        raise LoadFailed(f"{path} cannot be read: {error}") from error


def _manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of the archive; None = none."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise LoadFailed(f"{path} is no JSON: {error}", fix="Repack the archive.") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise LoadFailed(f"{path} is no manifest of a model", field="model", fix="Repack the archive.")
    return content


def _check_runtime(manifest: Manifest, content: Mapping[str, Any] | None) -> None:
    runtime = manifest.config.options.get("runtime") or (content or {}).get("runtime") or "python"
    if str(runtime).lower() not in ("python", "python3"):
        raise LoadFailed(
            f"model '{manifest.id.name}' needs the runtime {runtime!r}, which Salver does not have",
            field="runtime",
            fix="Use a handler in Python: python, python3.",
        )


def _yaml_config(folder: Path, about: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    """Return the whole of ``model-config.yaml``, since handlers have keys of their own."""
    name = about.get("configFile")
    if not name:
        return {}
    path = folder / str(name)
    try:
        config = read_yaml(_read(path), str(path), backend.extra)
    except InvalidInput as error:
        raise LoadFailed(error.message, field="configFile") from error
    if not isinstance(config, dict | None):
        raise LoadFailed(f"{path} is no mapping", field="configFile", fix="Write: minWorkers: 1")
    return config or {}


def _metrics(manifest: Manifest, declared: str, backend: Backend) -> "MetricsCacheYamlImpl":
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    if declared:
        framework(backend, "yaml")
    with running(Path(declared)):
        metrics = MetricsCacheYamlImpl(declared or None)
        metrics.initialize_cache()
    metrics.model_name = manifest.id.name
    metrics.set_request_ids(str(uuid.uuid4()))
    return metrics


def _context(
    manifest: Manifest,
    content: dict[str, Any] | None,
    yaml_config: dict[str, Any],
    metrics: "MetricsCacheYamlImpl",
    options: LoadOptions,
) -> "Context":
    import ts
    from ts.context import Context

    return Context(
        manifest.id.name,
        str(manifest.path),
        content,
        (manifest.config.workers or Workers()).batch_size,
        options.gpu,
        ts.__version__,
        manifest.config.options.get("limit_max_image_pixels") != "false",
        metrics,
        yaml_config,
    )


def _entry_of(spec: str, folder: Path) -> tuple[Callable[[Any, Any], Any], Callable[[Any], object]]:
    """Return the function that answers, and the one to call once before (TS-A2).

    Args:
        spec: ``file.py``, ``file.py:function`` or the name of a built-in handler.
    """
    file, _, function = spec.partition(":")
    name = file.removesuffix(".py").rpartition("/")[2]
    module = _module(name, folder)
    entry = getattr(module, function or "handle", None)
    if entry is not None:
        return entry, lambda context: entry(None, context)
    from ts.utils.util import list_classes_from_module

    found = list_classes_from_module(module)
    if len(found) != 1:
        raise ValueError(f"Expected only one class in custom service code or a function entry point {found}")
    handler = found[0]()
    if not hasattr(handler, "handle"):
        raise ValueError(f"Expect handle method in class {found[0]}")
    return handler.handle, handler.initialize


def _module(name: str, folder: Path) -> ModuleType:
    """Return the model's own module, an installed one, or that of a built-in handler."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if (folder / f"{name}.py").exists() or not _NAME.fullmatch(name):
            raise  # the module exists, and one of its own imports is missing
    if importlib.util.find_spec(f"{_HANDLERS}.{name}") is None:
        raise ValueError(f"Unable to load module {name}, make sure it is added to python path")
    return importlib.import_module(f"{_HANDLERS}.{name}")


def _envelope(name: str) -> Any:
    """Return the class that unwraps requests for a handler and wraps its answers."""
    if not _NAME.fullmatch(name) or importlib.util.find_spec(f"{_ENVELOPES}.{name}") is None:
        raise LoadFailed(
            f"there is no envelope {name!r}", field="envelope", fix="Use body, json, kserve or kservev2."
        )
    from ts.utils.util import list_classes_from_module

    return list_classes_from_module(importlib.import_module(f"{_ENVELOPES}.{name}"))[0]
