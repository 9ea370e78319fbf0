"""Salver: one process and one port that serve models of every framework.

Only the version is here at import; nothing is loaded, read or started. ``salver.Server``,
``salver.ServeConfig`` and ``salver.Client`` are fetched when they are first asked for.
"""

from typing import Any

__version__ = "0.1.0"

_WHERE = {"Server": "salver.embed", "ServeConfig": "salver.app", "Client": "salver.client"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'salver' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
