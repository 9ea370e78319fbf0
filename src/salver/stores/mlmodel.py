"""``MLmodel`` files: the artefact of an MLflow model and what MLflow says of it.

Pure. MLflow keeps a folder for each model, in which ``MLmodel`` names flavours, each with the path of what
its framework wrote.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from salver.encoding.lenient import mapping, text
from salver.lazy import lazy_imports
from salver.words.errors import InvalidInput
from salver.words.messages import Column, TensorSpec
from salver.words.tensor import DataType

with lazy_imports():
    from salver.encoding.plain_yaml import read_yaml


#: The file that makes a folder an MLflow model.
MLMODEL: Final = "MLmodel"
#: Files beside the artefact that stay with a version.
BESIDE: Final = (
    MLMODEL,
    "requirements.txt",
    "python_env.yaml",
    "conda.yaml",
    "input_example.json",
    "README.md",
)
#: Flavours with a backend, in order of preference, with the keys that name their artefact.
_FLAVOURS: Final[Mapping[str, tuple[str, ...]]] = {
    "onnx": ("data",),
    "tensorflow": ("saved_model_dir", "data"),
    "keras": ("data",),
    "xgboost": ("data",),
    "lightgbm": ("data",),
    "sklearn": ("pickled_model",),
    "pytorch": ("model_data",),
}
_MOST_WORDS: Final = 4000
_MOST_COLUMNS: Final = 4096
#: Datatypes of columns, by MLflow's names.
_TYPES: Final[Mapping[str, DataType]] = {
    "boolean": DataType.BOOL,
    "integer": DataType.INT32,
    "long": DataType.INT64,
    "float": DataType.FP32,
    "double": DataType.FP64,
    "string": DataType.BYTES,
    "datetime": DataType.BYTES,
}
_KINDS: Final[Mapping[str, Literal["integer", "boolean", "text", "date"]]] = {
    "boolean": "boolean",
    "integer": "integer",
    "long": "integer",
    "string": "text",
    "datetime": "date",
}
_PYFUNC: Final = """\
Put a class Model into a file of its own, with mlflow and pandas installed, and serve that file:

import mlflow
import numpy as np
import pandas as pd


class Model:
    inputs = {{{inputs}}}
    outputs = {{"prediction": ("FP64", [-1])}}

    def load(self, context):
        self.model = mlflow.pyfunc.load_model({path!r})

    def predict(self, inputs):
        table = {{n: [b.decode() for b in v] if v.dtype == object else v for n, v in inputs.items()}}
        return {{"prediction": np.asarray(self.model.predict(pd.DataFrame(table)), np.float64)}}
"""


class MlModel(msgspec.Struct, frozen=True):
    """Content of an ``MLmodel``.

    Attributes:
        flavour: Flavour of the artefact that is taken.
        artefact: Path of that file or folder in the model's folder, as the flavour names it.
        columns: Inputs by the names of columns, if the signature has them.
    """

    flavour: str
    artefact: str
    run_id: str = ""
    model_id: str = ""
    tags: Mapping[str, str] = {}
    columns: tuple[TensorSpec, ...] = ()


def parse_mlmodel(content: bytes, where: str, has: Callable[[str], bool]) -> MlModel:
    """Return the content of an ``MLmodel``.

    Args:
        has: Tells whether a path exists in the model's folder.

    Raises:
        InvalidInput: it is none, or has no flavour that a backend runs.
        MissingExtra: nothing here reads YAML.
    """
    said = _read(content, where)
    flavours = said.get("flavors")
    flavours = mapping(flavours)
    for flavour, keys in _FLAVOURS.items():
        about = flavours.get(flavour)
        about = mapping(about)
        for key in keys:
            path = about.get(key)
            if isinstance(path, str) and _is_below(path) and has(path.strip("/")):
                tags = _tags(said, flavour, about)
                return MlModel(flavour, path.strip("/"), *_ids(said), tags, _columns(said))
    if flavours.keys() == {"python_function"}:
        raise InvalidInput(
            f"{where} is a pyfunc of MLflow: Python code that MLflow loads itself",
            fix=_PYFUNC.format(
                path=where.removesuffix(f"/{MLMODEL}"),
                inputs=_written(_columns(said)),
            ),
        )
    known = ", ".join(str(name)[:40] for name in list(flavours)[:10]) or "none"
    raise InvalidInput(
        f"{where} has no flavour with an artefact that a backend runs; it has: {known}",
        fix=f"Log it in one of {', '.join(_FLAVOURS)}.",
    )


def _read(content: bytes, where: str) -> Mapping[str, Any]:
    said = read_yaml(content, where, "registry")
    if not isinstance(said, dict):
        raise InvalidInput(f"{where} says nothing of a model")
    return said


def _ids(said: Mapping[str, Any]) -> tuple[str, str]:
    run, model = (said.get(key) for key in ("run_id", "model_id"))
    return text(run), text(model)


def _tags(said: Mapping[str, Any], flavour: str, about: Mapping[str, Any]) -> Mapping[str, str]:
    """Return flavour, versions and signature as tags."""
    signature = said.get("signature")
    sides = mapping(signature).items()
    wanted = {
        "mlflow.flavor": flavour,
        "mlflow.version": said.get("mlflow_version"),
        "mlflow.model_id": said.get("model_id"),
        **{f"mlflow.{key}": value for key, value in about.items() if str(key).endswith("_version")},
        **{f"mlflow.signature.{side}": value for side, value in sides},
    }
    return {
        key: value
        for key, value in wanted.items()
        if isinstance(value, str) and value and len(value) <= _MOST_WORDS and "\0" not in value
    }


def _columns(said: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Return the columns of a signature; none if one has no name or an unknown type."""
    signature = said.get("signature")
    text = mapping(signature).get("inputs")
    try:
        columns = json.loads(text) if isinstance(text, str) and len(text) <= 1 << 20 else []
    except (ValueError, RecursionError):
        return ()
    if not isinstance(columns, list) or len(columns) > _MOST_COLUMNS:
        return ()
    found = {}
    for column in columns:
        about = mapping(column)
        name, kind = about.get("name"), about.get("type")
        if not isinstance(name, str) or not name or not isinstance(kind, str) or kind not in _TYPES:
            return ()
        found[name] = TensorSpec(name, _TYPES[kind], (-1,), column=Column(_KINDS.get(kind, "number")))
    if len(found) == len(columns):
        return tuple(found.values())
    return ()


def _written(columns: tuple[TensorSpec, ...]) -> str:
    """Return columns as a Python model declares them."""
    named = [f'{spec.name!r}: ("{spec.datatype.name}", [-1])' for spec in columns]
    return ", ".join(named) or '"x": ("FP64", [-1])'


def _is_below(path: str) -> bool:
    parts = path.rstrip("/").split("/")
    return not {"", ".", ".."} & set(parts) and "\\" not in path and path.isprintable()
