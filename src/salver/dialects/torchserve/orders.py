"""What does a request to register or scale a model say?

As fields of a query or as JSON (TS-M1, TS-M2). A number that is none counts as not given in a query, and is
an error in JSON, as TorchServe has it.

Pure.
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


def number(text: str | None, otherwise: int) -> int:
    """A number of a query.

    >>> number("12", 1), number("many", 1), number(None, 1)
    (12, 1, 1)
    """
    if text is None or not _NUMBER.fullmatch(text) or not _LEAST <= int(text) <= _MOST:
        return otherwise
    return int(text)


def is_true(text: str | None, otherwise: bool) -> bool:
    """A truth of a query: whatever is not ``true`` is false."""
    return otherwise if text is None else text.lower() == "true"


def registration(
    body: bytes, content_type: str, query: Mapping[str, str], *, called: str = "model_name"
) -> Registration:
    """A request to register a model, or a workflow.

    Args:
        called: Field of its name.

    Raises:
        InvalidInput: it does not say where the model is.
        NamedFault: its JSON is broken.
    """
    is_json = content_type.partition(";")[0].strip().lower() == "application/json"
    said = _Json(body) if is_json else _Query(query)
    url = said.text("url")
    if url is None:
        raise InvalidInput(NO_URL)
    return Registration(
        url,
        said.text(called) or "",
        said.text("handler") or "",
        said.text("runtime") or "",
        said.number("batch_size"),
        said.number("max_batch_delay"),
        said.number("initial_workers"),
        said.truth("synchronous", otherwise=True),
        said.number("response_timeout"),
        said.number("startup_timeout"),
        said.truth("s3_sse_kms", otherwise=False),
    )


class _Query:
    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def text(self, name: str) -> str | None:
        return self._fields.get(name)

    def number(self, name: str) -> int | None:
        text = self._fields.get(name)
        return number(text, 0) if text is not None and number(text, -1) == number(text, -2) else None

    def truth(self, name: str, *, otherwise: bool) -> bool:
        return is_true(self._fields.get(name), otherwise)


class _Json:
    def __init__(self, body: bytes) -> None:
        try:
            said: Any = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError as error:
            raise _broken(f"{error}") from None
        if not isinstance(said, dict):
            raise _broken("Expected an object")
        self._said = said

    def text(self, name: str) -> str | None:
        value = self._said.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool | int | float):
            return str(value).lower() if isinstance(value, bool) else str(value)
        raise _broken(f"Expected a string but was {_kind(value)} at path $.{name}")

    def number(self, name: str) -> int | None:
        value = self._said.get(name)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not _LEAST <= value <= _MOST:
            raise _broken(f"Expected an int but was {_kind(value)} at path $.{name}")
        return value

    def truth(self, name: str, *, otherwise: bool) -> bool:
        value = self._said.get(name)
        if value is None:
            return otherwise
        if isinstance(value, str):
            return value.lower() == "true"
        if isinstance(value, bool):
            return value
        raise _broken(f"Expected a boolean but was {_kind(value)} at path $.{name}")


def _broken(message: str) -> NamedFault:
    return NamedFault(message, 500, "JsonSyntaxException")


def _kind(value: Any) -> str:
    kinds = {str: "a string", dict: "an object", list: "an array", bool: "a boolean"}
    return kinds.get(type(value), f"{value!r:.40}")
