"""Trial loading of a model in a child process, because a broken model may end its process."""

import multiprocessing
from multiprocessing.connection import Connection

from salver.backends import reshaped
from salver.backends.discovery import backends
from salver.backends.protocol import LoadOptions
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, SalverError
from salver.words.messages import Signature


def try_load(manifest: Manifest, *, trust_pickle: bool, timeout: float) -> Signature:
    """Load a model in a child process and unload it.

    Raises:
        LoadFailed: it does not load, ends its process, or takes longer than ``timeout`` seconds.
        SalverError: raised by the backend.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_load, args=(manifest, trust_pickle, there), daemon=True)
    child.start()
    there.close()
    try:
        if not here.poll(timeout):
            raise LoadFailed(f"{manifest.path} has not loaded within {timeout:g} s")
        answer = here.recv()
    except EOFError:
        child.join(5)
        raise LoadFailed(_end_of(manifest, child.exitcode)) from None
    finally:
        child.kill()
        child.join(5)
        here.close()
    if isinstance(answer, SalverError):
        raise answer
    if not isinstance(answer, Signature):
        raise LoadFailed(str(answer))
    return answer


def _end_of(manifest: Manifest, status: int | None) -> str:
    how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
    return f"loading {manifest.path} ended its process ({how})"


def _load(manifest: Manifest, trust_pickle: bool, pipe: Connection) -> None:
    """Load the model; runs in the child."""
    answer: object
    try:
        options = LoadOptions(1, trust_pickle, own_process=True)
        model = reshaped.load(backends()[manifest.backend], manifest, options)
        answer = model.signature
        model.close()
    except SalverError as error:
        answer = error
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    pipe.send(answer)
