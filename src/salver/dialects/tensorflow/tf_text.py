"""Parsing of TensorFlow Serving's configuration files, which are protobuf in text format. Pure."""

import difflib
import re
from typing import Any, Final

from google.protobuf import text_format

from salver.dialects.tensorflow import tf_schema
from salver.words.errors import InvalidInput

MAX_BYTES: Final = 4 << 20
_UNKNOWN_FIELD: Final = re.compile(
    r'Message type "tensorflow(?:\.serving)?\.([\w.]+)" has no field named "(\w+)"'
)


def parse(text: bytes, kind: str, origin: str) -> Any:
    """Return the message that a file holds.

    Args:
        kind: Message of ``tensorflow.serving``, such as ``ModelServerConfig``.
        origin: The file's path, for messages.

    Raises:
        InvalidInput: It is wrong; the text is TensorFlow Serving's (TF-L6), with line and nearest field.
    """
    prefix = f"Error parsing text-format tensorflow.serving.{kind}:"
    try:
        message = tf_schema.build()[kind]()
        return text_format.Parse(text.decode(), message, descriptor_pool=message.DESCRIPTOR.file.pool)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{prefix} byte {error.start} of {origin} is not UTF-8") from error
    except text_format.ParseError as error:
        problem = re.sub(r"^\d+:\d+ : ", "", str(error).splitlines()[0])
        problem = re.sub(r"^'.*': ", "", problem)
        line, column = error.GetLine() or 0, error.GetColumn() or 0
        where = f"{prefix} {line}:{column}"
        raise InvalidInput(f"{where}: {problem} (in {origin})", fix=_near(problem)) from error
    except RecursionError as error:
        raise InvalidInput(f"{prefix} {origin} is nested too deeply") from error


def unpacked(packed: Any) -> Any:
    """Return the message in an ``Any``. Raises KeyError for an unknown type."""
    return tf_schema.build()[packed.type_url.rpartition(".")[2]].FromString(packed.value)


def _near(problem: str) -> str:
    """Return the nearest field, or all known ones."""
    unknown = _UNKNOWN_FIELD.search(problem)
    if unknown is None or (message := tf_schema.build().get(unknown[1])) is None:
        return ""
    known = [field.name for field in message.DESCRIPTOR.fields]
    close = difflib.get_close_matches(unknown[2], known, 1, 0.5)
    if close:
        return f"Did you mean `{close[0]}`?"
    return f"Known here: {', '.join(known)}."
