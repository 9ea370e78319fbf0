"""What does Triton's ``config.pbtxt`` say, and if it is wrong, where and how?

Turns the text, or the JSON of a load request, into a message of :mod:`salver.dialects.triton.model_config`,
and
says what is wrong in terms of line, field and nearest field. What it means is ``translate``'s.

Pure.
"""

import difflib
import re
from typing import Any, Final

from google.protobuf import json_format, text_format

from salver.dialects.triton.config.translate import Translated, translate
from salver.dialects.triton.model_config import ENUMS, MESSAGES, model_config_class
from salver.words.errors import InvalidInput

_UNKNOWN_FIELD: Final = re.compile(r'Message type "inference\.([\w.]+)" has no field named "(\w+)"')
_UNKNOWN_VALUE: Final = re.compile(r'Enum type "inference\.([\w.]+)" has no value named (\w+)')


class Unparsable(InvalidInput):
    """It is no model configuration at all, so that there is nothing to load."""


def parse_pbtxt(content: bytes, origin: str, name: str) -> Translated:
    """A model's configuration from the file's content.

    Args:
        origin: The file's path, for messages.
        name: The model's folder, which a name in the file must equal.

    Raises:
        Unparsable: names the file, line and field, and the nearest valid one.
        InvalidInput: as :func:`~salver.dialects.triton.config.translate.translate`.
    """
    try:
        message = text_format.Parse(content.decode(), model_config_class()())
    except UnicodeDecodeError as error:
        raise Unparsable(
            f"{origin}: byte {error.start} is not UTF-8", fix="Save the file as UTF-8"
        ) from error
    except text_format.ParseError as error:
        line = f"line {error.GetLine()}: " if error.GetLine() else ""
        raise _explained(f"{origin}: {line}", str(error)) from error
    return translate(message, origin, name)


def parse_json(text: str, name: str) -> Translated:
    """The same from the JSON form, as Triton's load request carries it.

    Raises:
        Unparsable: names the field, and the nearest valid one.
        InvalidInput: as :func:`~salver.dialects.triton.config.translate.translate`.
    """
    origin = f"configuration in the load request of '{name}'"
    try:
        message: Any = json_format.Parse(text, model_config_class()(), max_recursion_depth=32)
    except (json_format.ParseError, RecursionError) as error:
        raise _explained(f"{origin}: ", str(error)) from error
    return translate(message, origin, name)


def is_ensemble(content: bytes) -> bool:
    """Does a ``config.pbtxt`` put other models together? What cannot be read does not."""
    message = _lenient(content)
    return message.platform == "ensemble" or bool(message.ensemble_scheduling.step)


def renamed(content: bytes, name: str) -> str:
    """A ``config.pbtxt`` that has another model's name, as JSON with this one; else nothing."""
    message = _lenient(content)
    if message.name in ("", name):
        return ""
    message.name = name
    text: str = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)
    return text


def _lenient(content: bytes) -> Any:
    try:
        return text_format.Parse(content.decode(), model_config_class()())
    except (UnicodeDecodeError, text_format.ParseError):  # loading it says what is wrong
        return model_config_class()()


def _explained(prefix: str, error: str) -> Unparsable:
    """The message of protobuf without its repetition of position and source, and with a neighbour."""
    if unknown := _UNKNOWN_FIELD.search(error):
        message = unknown[1] if unknown[1] in MESSAGES else "ModelConfig"
        fields = re.findall(r"(\w+) = \d+", MESSAGES[message])
        return Unparsable(
            f"{prefix}{message} has no field `{unknown[2]}`", field=unknown[2], fix=_near(unknown[2], fields)
        )
    if unknown := _UNKNOWN_VALUE.search(error):
        values = ENUMS.get(unknown[1], "").split()
        return Unparsable(f"{prefix}there is no {unknown[1]} `{unknown[2]}`", fix=_near(unknown[2], values))
    text = re.sub(r"^\d+:\d+ : ", "", error.splitlines()[0])
    text = re.sub(r"^'.*': ", "", text).replace('Message type "inference.ModelConfig"', "the configuration")
    return Unparsable(prefix + text)


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"Did you mean `{close[0]}`?" if close else f"Known here: {', '.join(known)}"
