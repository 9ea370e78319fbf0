"""Salver: one process and one port that serve models of every framework.

Only the version is here at import; nothing is loaded, read or started. The other public names are fetched
when they are first asked for: ``Server`` and ``ServeConfig``, the clients ``Client`` and ``SyncClient``,
``Tensor``, and what users catch, ``SalverError`` and its kinds.
"""

from typing import Any

__version__ = "0.1.0"

_ERRORS = (
    "SalverError",
    "Cancelled",
    "Conflict",
    "DeadlineExceeded",
    "Forbidden",
    "InvalidInput",
    "LoadFailed",
    "MissingExtra",
    "ModelFailed",
    "NotFound",
    "NotReady",
    "Overloaded",
    "TooLarge",
    "Unauthenticated",
    "Unsupported",
)
_WHERE = {
    "Server": "salver.embed",
    "ServeConfig": "salver.configuration",
    "Client": "salver.client",
    "SyncClient": "salver.client",
    "Unreachable": "salver.client",
    "Tensor": "salver.words.tensor",
    **dict.fromkeys(_ERRORS, "salver.words.errors"),
}


def is_compiled() -> bool:
    """Return whether this is the accelerated build, whose connections and engine are compiled."""
    from importlib.util import find_spec

    spec = find_spec("salver.transport.exchange")
    return spec is not None and not str(spec.origin).endswith(".py")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'salver' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
