"""Marks on the methods of operation tables: only reads, or changes something.

A table is asked by :func:`changing` for the operations that its callers need a permission for. What nobody
marked counts as a change.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

#: Tells from a message whether it changes something.
IsChange = Callable[[bytes], bool]
_Method = TypeVar("_Method", bound=Callable[..., Any])
_MARK: Final = "_effect"
_READS: Final = "reads"
_CHANGES: Final = "changes"


def reads(method: _Method) -> _Method:
    """Mark a method that changes nothing but what the models themselves keep."""
    setattr(method, _MARK, _READS)
    return method


def changes(method: _Method) -> _Method:
    """Mark a method that changes what is served, logged or kept, or who may ask."""
    setattr(method, _MARK, _CHANGES)
    return method


def changes_if(is_change: IsChange) -> Callable[[_Method], _Method]:
    """Mark a method that changes something where its message says so."""

    def mark(method: _Method) -> _Method:
        setattr(method, _MARK, is_change)
        return method

    return mark


def is_marked(method: Callable[..., Any]) -> bool:
    """Whether somebody said what it does."""
    return hasattr(method, _MARK)


def changing(methods: Mapping[str, Callable[..., Any]]) -> dict[str, IsChange | None]:
    """The operations that change something, each with what tells so from its message; None = it always does.

    >>> def look(): ...
    >>> def alter(): ...
    >>> changing({"look": reads(look), "alter": changes(alter)})
    {'alter': None}
    """
    marks = {name: getattr(method, _MARK, _CHANGES) for name, method in methods.items()}
    return {name: mark if callable(mark) else None for name, mark in marks.items() if mark != _READS}
