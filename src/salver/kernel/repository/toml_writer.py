"""Writing of ``salver.toml``, without default values.

Pure. :func:`~salver.kernel.repository.toml.parse_toml` reads the result as the same configuration.
"""

import json
import re
from typing import Any, Final

import msgspec

from salver.kernel.repository.toml import parse_toml
from salver.words.artifacts import ModelConfig
from salver.words.errors import Unsupported

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(config: ModelConfig, comment: str = "") -> str:
    """Return the content of the file.

    Args:
        comment: First line.

    Raises:
        Unsupported: no such file can express the configuration.

    >>> from salver.words.artifacts import Batching
    >>> print(to_toml(ModelConfig(batching=Batching(max_rows=8))))
    [batching]
    max_rows = 8
    <BLANKLINE>
    """
    document = _changed(config)
    lines = [f"# {comment}"] if comment else []
    lines += [f"{_key(k)} = {_value(v)}" for k, v in document.items() if not isinstance(v, dict)]
    for name, table in document.items():
        if isinstance(table, dict):
            if lines:
                lines.append("")
            lines.append(f"[{_key(name)}]")
            lines += [f"{_key(key)} = {_value(value)}" for key, value in table.items()]
    text = "".join(f"{line}\n" for line in lines)
    if parse_toml(text.encode(), "salver.toml") != config:
        raise Unsupported("this configuration cannot be written as a salver.toml")
    return text


def _changed(config: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    usual = type(config)
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(usual):
        value = getattr(config, field.name)
        default = None
        if field.default is not msgspec.NODEFAULT:
            default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if value != default:
            found[field.encode_name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _changed(value)
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return msgspec.to_builtins(value)


def _key(name: str) -> str:
    if _BARE.fullmatch(name):
        return name
    return _text(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(value)
    if value == {}:
        return "{}"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)  # numbers, inf and nan among them


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
