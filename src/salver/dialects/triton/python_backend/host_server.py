"""Which server does the model of this process live in?

A host process has one model, and what that imports is functions and classes of a module: the server that they
speak to is one for all of the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from salver.backends.callbacks import ServerAccess
from salver.dialects.triton.python_backend.values import TritonModelException
from salver.words.errors import SalverError

_around: ServerAccess | None = None
_folder = ""


def connect(surroundings: ServerAccess | None, folder: str = "") -> None:
    """From now on the model speaks to that one; None = to nobody.

    Args:
        folder: Where its program lies.
    """
    global _around, _folder
    _around, _folder = surroundings, folder


def folder() -> str:
    """Where the model's program lies."""
    return _folder


def is_there() -> bool:
    """There is a server to speak to."""
    return _around is not None


@contextmanager
def raising() -> Iterator[None]:
    """What the server refuses is said as Triton says it."""
    try:
        yield
    except TritonModelException:
        raise
    except SalverError as error:
        raise TritonModelException(str(error)) from error


def server() -> ServerAccess:
    """The server.

    Raises:
        TritonModelException: the model was loaded by itself.
    """
    if _around is None:
        raise TritonModelException(
            "this model was loaded without a server, which has its metrics and other models"
        )
    return _around
