"""Bodies of calls of Triton's model repository, and the answers to them (TR-R11 to TR-R13).

Load requests look like ``{"parameters": {"config": "…", "file:1/model.onnx": "<base64>"}}``. Pure.
"""

import binascii
from collections.abc import Iterable
from typing import Any, Final

from salver.encoding.json_text import json_object, kind_of
from salver.encoding.model_entries import INDEX_STATE
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput, Unsupported
from salver.words.messages import State, VersionStatus

FILE: Final = "file:"
_SLICE: Final = 1 << 20  # characters of base64 decoded at a time; other threads run in between


def index(statuses: Iterable[VersionStatus], only_ready: bool = False) -> list[dict[str, str]]:
    """Return the repository index."""
    return [
        {
            "name": status.id.name,
            "version": status.id.version,
            "state": INDEX_STATE[status.state],
            "reason": status.reason,
        }
        for status in statuses
        if not only_ready or status.state is State.READY
    ]


def parse_index(body: bytes) -> bool:
    """Return whether only ready versions are wanted; an empty body asks for all.

    Raises:
        InvalidInput: The body is not an object, or ``ready`` is no boolean.
        Unsupported: A repository is named.
    """
    root = json_object(body)
    refuse_repository(root.get("repository_name", ""))
    ready = root.get("ready", False)
    if type(ready) is not bool:
        raise InvalidInput("Invalid value for 'ready': expected a boolean", field="ready")
    return ready


def parse_load(body: bytes) -> LoadOrder:
    """Return the order in a load request; slow for large files.

    Raises:
        InvalidInput: The body is not an object, a parameter is unknown or no string, or a file is not base64.
        Unsupported: A repository is named.
    """
    config = ""
    files: dict[str, bytes] = {}
    for name, value in _parameters(body).items():
        if type(value) is not str:
            raise InvalidInput(
                f"load parameter '{name}' must be a string, not {kind_of(value)}", field=f"parameters.{name}"
            )
        if name == "config":
            config = check_config(value)
        elif name.startswith(FILE):
            files[name.removeprefix(FILE)] = _decode_file(name, value)
        else:
            raise unknown_parameter(name)
    return LoadOrder(config, files)


def parse_unload(body: bytes) -> bool:
    """Return whether the models of an ensemble are to be unloaded with it.

    Raises:
        InvalidInput: The body is not an object, or ``unload_dependents`` is no boolean.
        Unsupported: A repository is named.
    """
    value = _parameters(body).get("unload_dependents", False)
    if type(value) is not bool:
        raise InvalidInput(
            f"unload parameter 'unload_dependents' must be a boolean, not {kind_of(value)}",
            field="parameters.unload_dependents",
        )
    return value


def check_config(config: str) -> str:
    """Return the configuration of a load request, which must not be empty."""
    if not config:
        fix = "Leave it out to load the model with its own configuration."
        raise InvalidInput("load parameter 'config' is empty", field="parameters.config", fix=fix)
    return config


def unknown_parameter(name: str) -> InvalidInput:
    """Return the error of an unknown load parameter."""
    return InvalidInput(
        f"unexpected load parameter '{name}'", field="parameters", fix="Known: config, file:<version>/<file>."
    )


def refuse_repository(name: object) -> None:
    """Check that no repository is named; the only one has no name. Raises Unsupported."""
    if name:
        raise no_repository()


def no_repository() -> Unsupported:
    """Return the error of a request that names a repository."""
    return Unsupported("'repository_name' specification is not supported")


def _parameters(body: bytes) -> dict[str, Any]:
    root = json_object(body)
    refuse_repository(root.get("repository_name", ""))
    parameters = root.get("parameters", {})
    if type(parameters) is not dict:
        raise InvalidInput(f"parameters must be an object, not {kind_of(parameters)}", field="parameters")
    return parameters


def _decode_file(name: str, text: str) -> bytes:
    try:
        if 0 <= text.find("=") < len(text) - 2:
            raise binascii.Error("padding before its end")
        parts = [text[at : at + _SLICE] for at in range(0, len(text), _SLICE)]
        return b"".join(binascii.a2b_base64(part, strict_mode=True) for part in parts)
    except ValueError as error:  # binascii.Error, or text that is not ASCII
        raise InvalidInput(
            f"load parameter '{name}' is not base64: {error}", field=f"parameters.{name}"
        ) from error
