"""Bodies of HTTP requests to load or unload a model (TR-R12, TR-R13).

Triton's bodies: ``{"parameters": {"config": "…", "file:1/model.onnx": "<base64>"}}``. It knows no
repository, and writes no file.

Pure.
"""

import binascii
from typing import Any, Final

from salver.dialects.triton.repository_index import refuse_repository
from salver.encoding.json_text import json_object, kind_of
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput

FILE: Final = "file:"
_SLICE: Final = 1 << 20  # characters of base64 that are decoded at a time; others run in between


def parse_load(body: bytes) -> LoadOrder:
    """The order in a load request; an empty body has none. Takes a while for large files.

    Raises:
        InvalidInput: not an object, a parameter that is unknown or no string, or files that are not base64.
        Unsupported: a repository is named.
    """
    config = ""
    files: dict[str, bytes] = {}
    for name, value in _parameters(body).items():
        if type(value) is not str:
            raise InvalidInput(
                f"load parameter '{name}' must be a string, not {kind_of(value)}", field=f"parameters.{name}"
            )
        if name == "config":
            config = told(value)
        elif name.startswith(FILE):
            files[name.removeprefix(FILE)] = _decoded(name, value)
        else:
            raise unknown(name)
    return LoadOrder(config, files)


def parse_unload(body: bytes) -> bool:
    """Whether the models of an ensemble are to be unloaded with it.

    Raises:
        InvalidInput: not an object, or ``unload_dependents`` is no boolean.
        Unsupported: a repository is named.
    """
    value = _parameters(body).get("unload_dependents", False)
    if type(value) is not bool:
        raise InvalidInput(
            f"unload parameter 'unload_dependents' must be a boolean, not {kind_of(value)}",
            field="parameters.unload_dependents",
        )
    return value


def told(config: str) -> str:
    """A configuration that stands for a model's own.

    Raises:
        InvalidInput: it is empty.
    """
    if not config:
        fix = "Leave it out to load the model as it lies."
        raise InvalidInput("load parameter 'config' is empty", field="parameters.config", fix=fix)
    return config


def unknown(name: str) -> InvalidInput:
    """The error of a load parameter that there is not."""
    return InvalidInput(
        f"unexpected load parameter '{name}'", field="parameters", fix="Known: config, file:<version>/<file>."
    )


def _parameters(body: bytes) -> dict[str, Any]:
    root = json_object(body)
    refuse_repository(root.get("repository_name", ""))
    parameters = root.get("parameters", {})
    if type(parameters) is not dict:
        raise InvalidInput(f"parameters must be an object, not {kind_of(parameters)}", field="parameters")
    return parameters


def _decoded(name: str, text: str) -> bytes:
    try:
        if 0 <= text.find("=") < len(text) - 2:
            raise binascii.Error("padding before its end")
        parts = [text[at : at + _SLICE] for at in range(0, len(text), _SLICE)]
        return b"".join(binascii.a2b_base64(part, strict_mode=True) for part in parts)
    except ValueError as error:  # binascii.Error is one; so is text that is not ASCII
        raise InvalidInput(
            f"load parameter '{name}' is not base64: {error}", field=f"parameters.{name}"
        ) from error
