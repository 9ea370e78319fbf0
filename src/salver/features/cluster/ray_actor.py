"""Program of a Ray actor: one model, as in a host process, called with whole batches.

Imports nothing of Ray, which makes an actor of the class.
"""

from collections.abc import Mapping
from typing import Any

from salver.kernel.engine.control import Load, LoadResult, RunError
from salver.kernel.engine.hosting import asks_of, load_failure, load_model, plain, run_batch, run_failure
from salver.words.tensor import Array


class ModelActor:
    """One model. Errors are returned, since Ray wraps what is raised into classes of its own."""

    def __init__(self) -> None:
        self._model: Any = None
        self._load: Any = None

    def load(self, load: Load) -> LoadResult | RunError:
        """Load the model, once."""
        try:
            self._model = load_model(load, None)
            self._load = load
            return LoadResult(self._model.signature, asks_of(self._model))
        except BaseException as error:
            return load_failure(error, load)

    def run(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float] | RunError:
        """Run a batch; return the outputs and the seconds in the model."""
        try:
            outputs, seconds = run_batch(self._model, inputs)
            return plain(outputs), seconds
        except BaseException as error:
            return run_failure(error, self._load)

    def check(self) -> None:
        """Answer, on a thread of its own: a long run must not look like a death."""
