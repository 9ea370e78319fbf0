"""Parsing of ``config.pbtxt``, and of the JSON form in load requests.

Errors name the line, the field and the nearest known field. ``translate`` interprets the fields. Pure.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any, Final

from google.protobuf import json_format, text_format

from salver.dialects.triton.config.translate import Translation, translate
from salver.dialects.triton.model_config import enum_values, field_names, model_config_class
from salver.kernel.repository.ports import UnreadableConfig

#: Name of the file beside a model's versions.
FILE: Final = "config.pbtxt"
_UNKNOWN_FIELD: Final = re.compile(r'Message type "inference\.([\w.]+)" has no field named "(\w+)"')
_UNKNOWN_VALUE: Final = re.compile(r'Enum type "inference\.([\w.]+)" has no value named (\w+)')


def parse_pbtxt(content: bytes, origin: str, name: str) -> Translation:
    """Return the configuration in a file.

    Args:
        origin: The file's path, for messages.
        name: The model's folder, which a name in the file must equal.

    Raises:
        UnreadableConfig: Names the file, line and field, and the nearest valid one.
        InvalidInput: See :func:`~salver.dialects.triton.config.translate.translate`.
    """
    try:
        message = text_format.Parse(content.decode(), model_config_class()())
    except UnicodeDecodeError as error:
        raise UnreadableConfig(
            f"{origin}: byte {error.start} is not UTF-8", fix="Save the file as UTF-8"
        ) from error
    except text_format.ParseError as error:
        where = f"{origin}: line {error.GetLine()}: " if error.GetLine() else f"{origin}: "
        raise _explain(where, str(error)) from error
    return translate(message, origin, name)


def parse_json(text: str, name: str) -> Translation:
    """Return the configuration in the JSON of a load request. Raises as :func:`parse_pbtxt`."""
    origin = f"configuration in the load request of '{name}'"
    try:
        message: Any = json_format.Parse(text, model_config_class()(), max_recursion_depth=32)
    except (json_format.ParseError, RecursionError) as error:
        raise _explain(f"{origin}: ", str(error)) from error
    return translate(message, origin, name)


def is_ensemble(content: bytes) -> bool:
    """Return whether a ``config.pbtxt`` describes an ensemble; False if it cannot be read."""
    message = _lenient(content)
    return message.platform == "ensemble" or bool(message.ensemble_scheduling.step)


def renamed(content: bytes, name: str) -> str:
    """Return a ``config.pbtxt`` as JSON with this name; empty if it has no other name."""
    message = _lenient(content)
    if message.name in ("", name):
        return ""
    message.name = name
    text: str = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)
    return text


def _lenient(content: bytes) -> Any:
    try:
        return text_format.Parse(content.decode(), model_config_class()())
    except (UnicodeDecodeError, text_format.ParseError):  # loading it reports the error
        return model_config_class()()


def _explain(prefix: str, error: str) -> UnreadableConfig:
    """Return protobuf's error without repeated position and source, with the nearest known name."""
    if unknown := _UNKNOWN_FIELD.search(error):
        message, fields = unknown[1], field_names(unknown[1])
        if fields is None:  # an entry of a map
            message, fields = "ModelConfig", field_names("ModelConfig") or ()
        text = f"{prefix}{message} has no field `{unknown[2]}`"
        return UnreadableConfig(text, field=unknown[2], fix=_near(unknown[2], fields))
    if unknown := _UNKNOWN_VALUE.search(error):
        text = f"{prefix}there is no {unknown[1]} `{unknown[2]}`"
        return UnreadableConfig(text, fix=_near(unknown[2], enum_values(unknown[1])))
    text = re.sub(r"^\d+:\d+ : ", "", error.splitlines()[0])
    text = re.sub(r"^'.*': ", "", text).replace('Message type "inference.ModelConfig"', "the configuration")
    return UnreadableConfig(prefix + text)


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    if close:
        return f"Did you mean `{close[0]}`?"
    return f"Known here: {', '.join(known)}"
