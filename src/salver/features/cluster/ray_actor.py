"""Program of a Ray actor: one model, as in a host process, called with whole batches.

Imports nothing of Ray, which makes an actor of the class. Batches come and go as pickles: with Ray's own
pickler, which can also carry functions, a small call takes 40 % longer.
"""

import os
import pickle
from typing import Any

from salver.kernel.engine.control import Load, LoadResult, RunError
from salver.kernel.engine.hosting import asks_of, load_failure, load_model, plain, run_batch, run_failure


class ModelActor:
    """One model. Errors are returned, since Ray wraps what is raised into classes of its own."""

    def __init__(self) -> None:
        self._model: Any = None
        self._load: Any = None

    def load(self, load: Load) -> tuple[LoadResult, int] | RunError:
        """Load the model, once; return the id of the process, too."""
        try:
            self._model = load_model(load, None)
            self._load = load
            return LoadResult(self._model.signature, asks_of(self._model)), os.getpid()
        except BaseException as error:
            return load_failure(error, load)

    def run(self, inputs: bytes) -> bytes:
        """Run a batch; return the outputs and the seconds in the model, or a :class:`RunError`."""
        reply: object
        try:
            outputs, seconds = run_batch(self._model, pickle.loads(inputs))
            reply = plain(outputs), seconds
        except BaseException as error:
            reply = run_failure(error, self._load)
        return pickle.dumps(reply, pickle.HIGHEST_PROTOCOL)

    def check(self) -> None:
        """Answer, on a thread of its own: a long run must not look like a death."""
