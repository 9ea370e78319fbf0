"""Marks on the methods of operation tables that tell reads from changes.

:func:`changing` returns the operations of a table that need a permission. Unmarked methods count as changes.
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
    """Mark a method that changes nothing except the models' own state."""
    setattr(method, _MARK, _READS)
    return method


def changes(method: _Method) -> _Method:
    """Mark a method that changes what is served, logged, stored or allowed."""
    setattr(method, _MARK, _CHANGES)
    return method


def changes_if(is_change: IsChange) -> Callable[[_Method], _Method]:
    """Mark a method that changes something only for some messages."""

    def mark(method: _Method) -> _Method:
        setattr(method, _MARK, is_change)
        return method

    return mark


def is_marked(method: Callable[..., Any]) -> bool:
    """Return whether a method has a mark."""
    return hasattr(method, _MARK)


def changing(methods: Mapping[str, Callable[..., Any]]) -> dict[str, IsChange | None]:
    """Return the operations that change something, with the test of their messages; None = always a change.

    >>> def look(): ...
    >>> def alter(): ...
    >>> changing({"look": reads(look), "alter": changes(alter)})
    {'alter': None}
    """
    marks = {name: getattr(method, _MARK, _CHANGES) for name, method in methods.items()}
    return {name: mark if callable(mark) else None for name, mark in marks.items() if mark != _READS}
