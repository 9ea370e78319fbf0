"""Parsing of TensorFlow Serving's configuration files.

Text-format protobuf becomes a message of :mod:`salver.dialects.tensorflow.tf_schema`. Pure.
"""

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
        InvalidInput: with TensorFlow Serving's text (TF-L6), line, field and nearest field.
    """
    prefix = f"Error parsing text-format tensorflow.serving.{kind}:"
    try:
        message = tf_schema.build()[kind]()
        return text_format.Parse(text.decode(), message, descriptor_pool=message.DESCRIPTOR.file.pool)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{prefix} byte {error.start} of {origin} is not UTF-8") from error
    except text_format.ParseError as error:
        said = re.sub(r"^\d+:\d+ : ", "", str(error).splitlines()[0])
        said = re.sub(r"^'.*': ", "", said)
        line, column = error.GetLine() or 0, error.GetColumn() or 0
        raise InvalidInput(f"{prefix} {line}:{column}: {said} (in {origin})", fix=_near(said)) from error
    except RecursionError as error:
        raise InvalidInput(f"{prefix} {origin} is nested too deeply") from error


def unpacked(packed: Any) -> Any:
    """Return the message in an ``Any``.

    Raises:
        KeyError: its type is unknown.
    """
    return tf_schema.build()[packed.type_url.rpartition(".")[2]].FromString(packed.value)


def _near(said: str) -> str:
    """Return the nearest field, or all known ones."""
    unknown = _UNKNOWN_FIELD.search(said)
    message = tf_schema.build().get(unknown[1]) if unknown else None
    if unknown is None or message is None:
        return ""
    known = [field.name for field in message.DESCRIPTOR.fields]
    close = difflib.get_close_matches(unknown[2], known, 1, 0.5)
    return f"Did you mean `{close[0]}`?" if close else f"Known here: {', '.join(known)}."
