"""Parsing of ``config.pbtxt``, and of the JSON form that load requests carry.

Errors name the line, the field and the nearest known field. ``translate`` gives fields their meaning. Pure.
"""

import difflib
import re
from typing import Any, Final

from google.protobuf import json_format, text_format

from salver.dialects.triton.config.translate import Translation, translate
from salver.dialects.triton.model_config import ENUMS, MESSAGES, model_config_class
from salver.kernel.repository.ports import UnreadableConfig

#: Name of the file beside a model's versions.
FILE: Final = "config.pbtxt"
_UNKNOWN_FIELD: Final = re.compile(r'Message type "inference\.([\w.]+)" has no field named "(\w+)"')
_UNKNOWN_VALUE: Final = re.compile(r'Enum type "inference\.([\w.]+)" has no value named (\w+)')


def parse_pbtxt(content: bytes, origin: str, name: str) -> Translation:
    """Return a model's configuration from the file's content.

    Args:
        origin: The file's path, for messages.
        name: The model's folder, which a name in the file must equal.

    Raises:
        UnreadableConfig: names the file, line and field, and the nearest valid one.
        InvalidInput: as :func:`~salver.dialects.triton.config.translate.translate`.
    """
    try:
        message = text_format.Parse(content.decode(), model_config_class()())
    except UnicodeDecodeError as error:
        raise UnreadableConfig(
            f"{origin}: byte {error.start} is not UTF-8", fix="Save the file as UTF-8"
        ) from error
    except text_format.ParseError as error:
        line = f"line {error.GetLine()}: " if error.GetLine() else ""
        raise _explained(f"{origin}: {line}", str(error)) from error
    return translate(message, origin, name)


def parse_json(text: str, name: str) -> Translation:
    """Return the same from the JSON form, as Triton's load request carries it.

    Raises:
        UnreadableConfig: names the field, and the nearest valid one.
        InvalidInput: as :func:`~salver.dialects.triton.config.translate.translate`.
    """
    origin = f"configuration in the load request of '{name}'"
    try:
        message: Any = json_format.Parse(text, model_config_class()(), max_recursion_depth=32)
    except (json_format.ParseError, RecursionError) as error:
        raise _explained(f"{origin}: ", str(error)) from error
    return translate(message, origin, name)


def is_ensemble(content: bytes) -> bool:
    """Return whether a ``config.pbtxt`` is of an ensemble; one that cannot be read is not."""
    message = _lenient(content)
    return message.platform == "ensemble" or bool(message.ensemble_scheduling.step)


def renamed(content: bytes, name: str) -> str:
    """Return a ``config.pbtxt`` as JSON with this name, in place of another; empty if nothing changes."""
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


def _explained(prefix: str, error: str) -> UnreadableConfig:
    """Return protobuf's error without repeated position and source, with the nearest known name."""
    if unknown := _UNKNOWN_FIELD.search(error):
        message = unknown[1] if unknown[1] in MESSAGES else "ModelConfig"
        fields = re.findall(r"(\w+) = \d+", MESSAGES[message])
        return UnreadableConfig(
            f"{prefix}{message} has no field `{unknown[2]}`", field=unknown[2], fix=_near(unknown[2], fields)
        )
    if unknown := _UNKNOWN_VALUE.search(error):
        values = ENUMS.get(unknown[1], "").split()
        return UnreadableConfig(
            f"{prefix}there is no {unknown[1]} `{unknown[2]}`", fix=_near(unknown[2], values)
        )
    text = re.sub(r"^\d+:\d+ : ", "", error.splitlines()[0])
    text = re.sub(r"^'.*': ", "", text).replace('Message type "inference.ModelConfig"', "the configuration")
    return UnreadableConfig(prefix + text)


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"Did you mean `{close[0]}`?" if close else f"Known here: {', '.join(known)}"
