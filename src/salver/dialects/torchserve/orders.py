"""Requests to register or scale a model, as query fields or as JSON (TS-M1, TS-M2).

A malformed number is ignored in a query and is an error in JSON, as in TorchServe. Pure.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from salver.dialects.torchserve.faults import NamedFault
from salver.words.errors import InvalidInput
from salver.words.handlers import Registration

_NUMBER: Final = re.compile(r"[+-]?\d{1,10}", re.ASCII)
_LEAST, _MOST = -(1 << 31), (1 << 31) - 1
NO_URL: Final = "Parameter url is required."


def read_number(text: str | None, otherwise: int) -> int:
    """Return a number of a query, or the default if it is missing or malformed.

    >>> read_number("12", 1), read_number("many", 1), read_number(None, 1)
    (12, 1, 1)
    """
    if text is None or not _NUMBER.fullmatch(text) or not _LEAST <= int(text) <= _MOST:
        return otherwise
    return int(text)


def is_true(text: str | None, otherwise: bool) -> bool:
    """Return a flag of a query: only ``true`` is true."""
    if text is None:
        return otherwise
    return text.lower() == "true"


def read_registration(
    body: bytes, content_type: str, query: Mapping[str, str], *, name: str = "model_name"
) -> Registration:
    """Return a request to register a model or a workflow.

    Args:
        name: Field with the name.

    Raises:
        InvalidInput: the URL is missing.
        NamedFault: the JSON is malformed.
    """
    fields: _Query | _Json = _Query(query)
    if content_type.partition(";")[0].strip().lower() == "application/json":
        fields = _Json(body)
    url = fields.text("url")
    if url is None:
        raise InvalidInput(NO_URL)
    return Registration(
        url,
        fields.text(name) or "",
        fields.text("handler") or "",
        fields.text("runtime") or "",
        fields.number("batch_size"),
        fields.number("max_batch_delay"),
        fields.number("initial_workers"),
        fields.flag("synchronous", otherwise=True),
        fields.number("response_timeout"),
        fields.number("startup_timeout"),
        fields.flag("s3_sse_kms", otherwise=False),
    )


class _Query:
    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def text(self, name: str) -> str | None:
        return self._fields.get(name)

    def number(self, name: str) -> int | None:
        number = read_number(self._fields.get(name), _LEAST - 1)
        return number if number >= _LEAST else None

    def flag(self, name: str, *, otherwise: bool) -> bool:
        return is_true(self._fields.get(name), otherwise)


class _Json:
    def __init__(self, body: bytes) -> None:
        try:
            fields: Any = orjson.loads(body if body.strip() else b"{}")
        except orjson.JSONDecodeError as error:
            raise _malformed(f"{error}") from None
        if not isinstance(fields, dict):
            raise _malformed("Expected an object")
        self._fields = fields

    def text(self, name: str) -> str | None:
        value = self._fields.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | float):
            return str(value)
        raise _malformed(f"Expected a string but was {_kind(value)} at path $.{name}")

    def number(self, name: str) -> int | None:
        value = self._fields.get(name)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not _LEAST <= value <= _MOST:
            raise _malformed(f"Expected an int but was {_kind(value)} at path $.{name}")
        return value

    def flag(self, name: str, *, otherwise: bool) -> bool:
        value = self._fields.get(name)
        if value is None:
            return otherwise
        if isinstance(value, str):
            return value.lower() == "true"
        if isinstance(value, bool):
            return value
        raise _malformed(f"Expected a boolean but was {_kind(value)} at path $.{name}")


def _malformed(message: str) -> NamedFault:
    return NamedFault(message, 500, "JsonSyntaxException")


def _kind(value: Any) -> str:
    kinds = {str: "a string", dict: "an object", list: "an array", bool: "a boolean"}
    return kinds.get(type(value), f"{value!r:.40}")
