"""Connection of this host process's model to its server.

The connection is global: a host process has one model, which uses functions and classes of a module.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from salver.backends.callbacks import ServerAccess
from salver.dialects.triton.python_backend.values import TritonModelException
from salver.words.errors import SalverError

_server: ServerAccess | None = None
_folder = ""


def connect(server: ServerAccess | None, folder: str = "") -> None:
    """Set the model's server, None = none, and the folder of its program."""
    global _server, _folder
    _server, _folder = server, folder


def folder() -> str:
    """Return the folder of the model's program."""
    return _folder


def is_connected() -> bool:
    """Return whether there is a server."""
    return _server is not None


@contextmanager
def triton_errors() -> Iterator[None]:
    """Raise the server's errors as Triton's exception."""
    try:
        yield
    except TritonModelException:
        raise
    except SalverError as error:
        raise TritonModelException(str(error)) from error


def server() -> ServerAccess:
    """Return the server.

    Raises:
        TritonModelException: The model was loaded without one.
    """
    if _server is None:
        raise TritonModelException(
            "this model was loaded without a server, which has its metrics and other models"
        )
    return _server
