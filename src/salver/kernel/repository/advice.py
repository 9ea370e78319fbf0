"""Advice on paths that no backend recognises: what they hold, and how to make a model of it.

Files are recognised by their first bytes and names, folders by the files in them. Nothing is loaded, and
only a few kilobytes are read.
"""

import ast
import difflib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from salver.backends.content import head, zip_members
from salver.backends.source import parse, read_source
from salver.words.errors import InvalidInput

EXAMPLE: Final = "<model>/<version>/<artefact>, e.g. resnet/1/model.onnx"
_MOST_NAMES: Final = 5
_FUNCTION: Final = re.compile(r"([A-Za-z_][\w./-]*?)(?:\.py)?:([A-Za-z_]\w*)", re.ASCII)
_EXPORT: Final = "Export it to ONNX ({how}), and serve the .onnx file."
#: By suffix: what it is, and what to do.
_FORMATS: Final = {
    ".gguf": ("a llama.cpp model (GGUF)", "Run it with llama.cpp, whose server speaks OpenAI's protocol."),
    ".engine": ("a TensorRT engine", "Serve the ONNX file that it was built from."),
    ".plan": ("a TensorRT engine", "Serve the ONNX file that it was built from."),
    ".trt": ("a TensorRT engine", "Serve the ONNX file that it was built from."),
    ".mlmodel": ("a Core ML model", "Export the original model to ONNX, and serve the .onnx file."),
    ".mlpackage": ("a Core ML model", "Export the original model to ONNX, and serve the .onnx file."),
    ".pdmodel": ("a PaddlePaddle model", _EXPORT.format(how="paddle2onnx")),
    ".cbm": ("a CatBoost model", _EXPORT.format(how='model.save_model("model.onnx", format="onnx")')),
    ".pmml": ("a PMML document", "Save the original model with its own library, or export it to ONNX."),
    ".ckpt": ("a checkpoint: weights without a program", "Load it where it was trained, and export it."),
    ".pb": ("a frozen TensorFlow graph", "Export a SavedModel, and give its folder."),
    ".npy": ("an array of numpy's, which is data", ""),
    ".npz": ("an archive of arrays, which is data", ""),
}
_KERAS: Final = (
    "Export it once as a SavedModel, and serve that folder:\n"
    "python -c \"import keras; keras.models.load_model({path!r}).export('saved_{stem}')\"\n"
    "salver serve saved_{stem}"
)
_WEIGHTS: Final = (
    "Build the model in Python, load the weights, and export it: ONNX, torch.export or a SavedModel."
)
_PYTHON: Final = """\
Put a class Model into {file}, and serve that file (-1 is a free extent, the first is the batch's):

import numpy as np
{imports}

class Model:
    inputs = {{{inputs}}}
    outputs = {{"y": ("FP32", [-1])}}

    def predict(self, inputs):
        return {{"y": np.asarray({call}, np.float32)}}
"""
_HUGGING_FACE: Final = (
    "Export it to ONNX once, and serve that:\n"
    "pip install 'optimum[onnxruntime]'\n"
    "optimum-cli export onnx --model {path} {path}-onnx\n"
    "salver serve {path}-onnx\n"
    "Or serve it as it is, with PyTorch:\n"
    "pip install 'salver[transformers]'"
)
_REGISTRY: Final = "\nsalver serve --registry registry"
_DOWNLOAD: Final = (
    "Download it, and serve the file:\ncurl -fLO {url}\nsalver serve {file}\n"
    "Or keep it in a registry, by its digest:\n"
    "salver registry push {url}#sha256=DIGEST --name NAME --registry registry" + _REGISTRY
)
_PUSH: Final = (
    "Push it into a registry, and serve that:\n"
    "salver registry push {url} --name NAME --registry registry" + _REGISTRY
)
_SCHEME: Final = re.compile(r"(hf|https?|oci|models|runs|file):/+")
#: Addresses that are no path, by scheme: what they are, and what to do.
_SOURCES: Final = {
    "http": ("a web address", _DOWNLOAD),
    "https": ("a web address", _DOWNLOAD),
    "hf": (
        "a repository of Hugging Face",
        "If it has an ONNX file, fetch it and serve that:\n"
        "hf download {name} --include '*.json' --include onnx/model.onnx --local-dir model\n"
        "salver serve model\n"
        "If it has none, export one:\n"
        "pip install 'optimum[onnxruntime]'\n"
        "optimum-cli export onnx --model {name} exported\n"
        "salver serve exported",
    ),
    "oci": ("an OCI artefact", _PUSH),
    "models": ("a model of an MLflow registry", _PUSH),
    "runs": (
        "an artefact of an MLflow run",
        "Download its folder, and serve that:\n"
        "mlflow artifacts download --artifact-uri {url} --dst-path model\nsalver serve model",
    ),
    "file": ("a URL", "Give the path: /{rest}"),
}
_LONGEST: Final = 500
#: Where models lie below an experiment or run of MLflow tracking.
_OF_RUNS: Final = ("artifacts/*/MLmodel", "models/*/artifacts/MLmodel", "*/artifacts/*/MLmodel")


def check_place(path: str) -> None:
    """Refuse what is no path, with the command that imports such a model.

    Raises:
        InvalidInput: it is the address of another source of models, or a function.
    """
    text = path[:_LONGEST]
    if scheme := _SCHEME.match(text):
        kind, rest = scheme[1], text[scheme.end() :]
        what, way = _SOURCES[kind]
        url = f"{kind}://{rest}"
        if kind in ("models", "runs"):
            url = text  # MLflow's addresses, `models:/NAME/VERSION`, have one slash
        file = rest.partition("?")[0].rstrip("/").rpartition("/")[2] or "model.onnx"
        fix = way.format(url=shlex.quote(url), rest=rest, name=rest.partition("@")[0], file=shlex.quote(file))
        raise InvalidInput(f"{url} is {what}, and salver serve needs local files", fix=fix)
    if (found := _FUNCTION.fullmatch(text)) and not Path(text).exists():
        module, function = found.groups()
        file = module
        if "/" not in module:
            file = module.replace(".", "/")
        raise InvalidInput(f"{text} is a function, not a file", fix=_around(Path(f"{file}.py"), function))


def missing(path: str) -> str:
    """Return what to do about a path that does not exist: the nearest name that does."""
    here = Path(path)
    link = next((p for p in (here, *here.parents) if p.is_symlink() and not p.exists()), None)
    if link is not None:
        return f"{link} is a link to {link.readlink()}, which does not exist"
    above = next((p for p in here.parents if p.is_dir()), Path())
    try:
        names = sorted(p.name for p in above.iterdir() if not p.name.startswith("."))
    except OSError:
        names = []
    for below in here.relative_to(above).parts[:1]:
        for close in difflib.get_close_matches(below, names, 1, 0.6):
            return f"Did you mean {above / close}?"
    where = str(above)
    if above == Path():
        where = "This folder"
    return f"{where} holds: {listed(names)}. Give a model file, or a folder with models"


def listed(names: Sequence[str]) -> str:
    """Return a few names, and how many more there are.

    >>> listed(["a", "b"]), listed([]), listed(list("abcdefg"))
    ('a, b', 'nothing', 'a, b, c, d, e and 2 more')
    """
    text = ", ".join(names[:_MOST_NAMES]) or "nothing"
    more = len(names) - _MOST_NAMES
    if more > 0:
        text += f" and {more} more"
    return text


def unrecognised_file(path: Path) -> str:
    """Return why a file is no model, and what to do."""
    if said := of_file(path):
        return said
    return (
        f"no installed backend recognises {path} as a model. Export it to a format that has a backend "
        "(ONNX, torch.export, SavedModel, skops, …); `salver doctor` lists them"
    )


def unrecognised_folder(where: Path, names: Iterable[str]) -> str:
    """Return the same for a folder with files of these names."""
    names = list(names)
    if said := of_folder(where, names):
        return said
    text = f"no model that any installed backend recognises in {where} (it holds: {listed(names)})"
    for name in names:
        if said := of_file(where / name):
            return f"{text}. {said}"
    return (
        f"{text}. Expected a model file, or {EXAMPLE}; `salver doctor` lists the backends that are installed"
    )


def of_folder(where: Path, names: Iterable[str]) -> str:
    """Return advice on a folder by the names in it; empty if there is none."""
    names = set(names)
    kind = ""
    if "adapter_config.json" in names:
        return f"{where} is an adapter (PEFT). Merge it into its model, and export that to ONNX"
    if "model_index.json" in names:
        kind = "a pipeline of diffusers"
    elif "modules.json" in names and any(name.startswith("config") for name in names):
        kind = "a model of sentence-transformers"
    elif "config.json" in names and (model := _transformer(where / "config.json")):
        kind = model
    if kind:
        return (
            f"{where} is {kind}: weights and their configuration, without a program. "
            + _HUGGING_FACE.format(path=where)
        )
    if "meta.yaml" in names:
        found = next((p for pattern in _OF_RUNS for p in sorted(where.glob(pattern))[:1]), None)
        text = f"{where} is a folder of MLflow's runs. Give that of a model"
        if found:
            text += f": {found.parent}"
        return text
    if "variables" in names and "saved_model.pb" not in names:
        return f"{where} is a SavedModel without its saved_model.pb. Copy that file there, too"
    if "checkpoint" in names and any(name.endswith(".index") for name in names):
        return f"{where} is a checkpoint of TensorFlow: weights without a program. {_WEIGHTS}"
    return ""


def of_file(path: Path) -> str:
    """Return advice on a file; empty if there is none."""
    if path.is_dir():
        return ""
    start = head(path, 512)
    if not start:
        if path.is_file():
            return f"{path} is an empty file. Copy the model again"
        return ""
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS, not the file itself. Fetch it: git lfs pull"
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return f"{path} is a web page, not a model: the download went wrong. Fetch it again"
    if path.name == "saved_model.pb":
        return f"{path} is one file of a SavedModel. Give its folder: {path.parent}"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        if path.name.endswith(".weights.h5"):
            return f"{path} holds weights of Keras without the model. {_WEIGHTS}"
        return f"{path} is an HDF5 file, as Keras 2 saved its models. " + _keras(path)
    if start.startswith(b"PK"):
        return _of_archive(path)
    if start[:4] == b"GGUF":
        return "{} is {}. {}".format(path, *_FORMATS[".gguf"])
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and start[4:8] == bytes(4)):
        beside = path.parent / "config.json"
        way = _WEIGHTS
        if _transformer(beside):
            way = _HUGGING_FACE.format(path=path.parent)
        return f"{path} is a safetensors file: weights without a program. {way}"
    if start[:2] == b"\x1f\x8b" or path.suffix in (".tar", ".zip", ".7z"):
        return f"{path} is an archive. Unpack it, and give the folder"
    if path.suffix == ".py":
        return _of_source(path)
    if path.suffix in _FORMATS:
        what, way = _FORMATS[path.suffix]
        return f"{path} is {what}. {way}".rstrip()
    return ""


def _of_archive(path: Path) -> str:
    members = zip_members(path)
    if {"config.json", "metadata.json"} <= set(members):
        return f"{path} is a model in Keras' own format. {_keras(path)}"
    if path.suffix == ".npz":
        return f"{path} is {_FORMATS['.npz'][0]}"
    return f"{path} is an archive ({listed(members)}). Unpack it, and give the folder"


def _keras(path: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9_]+", "_", path.stem).strip("_") or "model"
    return _KERAS.format(path=str(path), stem=stem)


def _transformer(path: Path) -> str:
    """Return the architecture in a ``config.json`` of transformers; empty for other files."""
    try:
        said = json.loads(head(path, 1 << 20))
    except ValueError:
        return ""
    if (
        not isinstance(said, dict)
        or not {"model_type", "architectures", "transformers_version"} & said.keys()
    ):
        return ""
    names = said.get("architectures")
    first = said.get("model_type")
    if isinstance(names, list) and names and isinstance(names[0], str):
        first = names[0]
    return f"a Hugging Face model ({str(first or 'of no known architecture')[:80]})"


def _of_source(path: Path) -> str:
    functions = [name for name in _functions(path) if not name.startswith("_")]
    problem = f"{path} defines no class Model"
    if not functions:
        return f"{problem}. {_around(path, '')}"
    chosen = next((name for name in functions if name in ("predict", "infer", "main", "run")), functions[0])
    return f"{problem}; it has the functions {listed(functions)}. {_around(path, chosen)}"


def _functions(path: Path) -> dict[str, list[str]]:
    """Return the arguments of the functions that a source defines, by name."""
    content = read_source(path)
    if content is None or (tree := parse(content)) is None:
        return {}
    return {
        node.name: [a.arg for a in node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def _around(path: Path, function: str) -> str:
    """Return how to serve a function."""
    arguments = _functions(path).get(function) or ["x"]
    inputs = ", ".join(f'"{name}": ("FP32", [-1])' for name in arguments)
    values = ", ".join(f'inputs["{name}"]' for name in arguments)
    call = values.partition(",")[0]
    if function:
        call = f"{function}({values})"
    file, imports = path, ""
    if not path.is_file():
        file = path.with_name("model.py")
        if function:
            imports = f"from {path.stem} import {function}\n"
    return _PYTHON.format(file=file, imports=imports, inputs=inputs, call=call)
