"""Lenient reading of documents from outside: a value of another type counts as an empty one."""

from typing import Any


def mapping(value: object) -> dict[Any, Any]:
    """Return a value if it is an object of JSON, else an empty one."""
    if isinstance(value, dict):
        return value
    return {}


def sequence(value: object) -> list[Any]:
    """Return a value if it is an array of JSON, else an empty one."""
    if isinstance(value, list):
        return value
    return []


def text(value: object) -> str:
    """Return a value if it is a text, else an empty one."""
    if isinstance(value, str):
        return value
    return ""
