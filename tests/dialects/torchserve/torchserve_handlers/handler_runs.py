"""Running of TorchServe's handlers by hand: packed by the unmodified archiver, unpacked, called."""

import importlib
import inspect
import itertools
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archivers import run_archiver

_NUMBERS = itertools.count()


class Measured:
    """The metrics of a context, written down."""

    def __init__(self) -> None:
        self.times: list[tuple[Any, ...]] = []

    def add_time(self, *values: Any) -> None:
        self.times.append(values)

    def names(self) -> list[str]:
        return [values[0] for values in self.times]


class Context:
    """As much of TorchServe's context as the handlers of its own ask for."""

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None, **headers: str) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": None, "limit_max_image_pixels": True}
        manifest = folder / "MAR-INF" / "MANIFEST.json"
        self.manifest = json.loads(manifest.read_text()) if manifest.exists() else {"model": {}}
        self.model_name = self.manifest["model"].get("modelName", "m")
        self.model_yaml_config = dict(config or {})
        self.metrics = Measured()
        self.request_ids = {0: "first"}
        self.headers = headers
        self.cl_socket = Socket()

    def get_request_header(self, index: int, key: str) -> str | None:
        return self.headers.get(key)


class Socket:
    """Receiver of pieces of answers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(bytes(data))


def archive(folder: Path, name: str, handler: str, **options: Any) -> Path:
    """Return the ``.mar`` that ``torch-model-archiver`` makes; ``extra_files`` may be a list."""
    command: list[str | Path] = ["--model-name", name, "--handler", handler]
    for option, value in {"version": "1.0", "export_path": folder, **options}.items():
        command.append(f"--{option.replace('_', '-')}")
        if value is not True:
            command.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    run_archiver("torch-model-archiver", *command)
    return folder / f"{name}.mar"


def unpack(archive: Path) -> Path:
    """Unpack an archive into a folder beside it."""
    folder = archive.with_name(f"{archive.stem}-{next(_NUMBERS)}")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Make an archive's modules importable, and forget them afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]


def handler_class(folder: Path) -> Any:
    """Return the class that an archive's manifest names: of its own file, or a built-in one."""
    named = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]["handler"]
    own = named.endswith(".py")
    module = importlib.import_module(named.removesuffix(".py") if own else f"ts.torch_handler.{named}")
    kinds = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__ and hasattr(kind, "handle")
    ]
    (kind,) = kinds
    return kind


def opened(folder: Path, config: Mapping[str, Any] | None = None) -> tuple[Any, Context]:
    """Return an initialised handler and its context."""
    context = Context(folder, config)
    with importable(folder):
        handler = handler_class(folder)()
        handler.initialize(context)
    return handler, context


def ask(handler: Any, context: Context, *bodies: Any, **headers: str) -> Any:
    """Return a handler's answers to a batch of raw bodies."""
    context.headers = headers
    return handler.handle([{"body": body} for body in bodies], context)


def write_labels(folder: Path, labels: Sequence[str]) -> Path:
    """``index_to_name.json``, as an extra file."""
    file = folder / "index_to_name.json"
    file.write_text(json.dumps(dict(enumerate(labels))))
    return file
