"""Interface of the server for a model in a host process.

Answers of other models, loading and unloading, log lines, and numbers on the metrics page. Implemented by
:mod:`salver.kernel.engine.callback_client`.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from salver.words.artifacts import LoadOrder
from salver.words.messages import InferRequest, InferResponse

_AS_IT_LIES = LoadOrder()
#: Receives the answers to a request, on a thread of the server interface, and whether none follows. None =
#: only that.
Hear = Callable[[InferResponse | None, bool], None]


class ModelCommand(msgspec.Struct, frozen=True):
    """Request to load, unload or describe a model.

    Attributes:
        version: Version to describe; empty = chosen by the server.
        dependents: Unload the models of an ensemble with it.
    """

    kind: Literal["load", "unload", "is_ready"]
    model: str
    version: str = ""
    order: LoadOrder = _AS_IT_LIES
    dependents: bool = False


class Series(msgspec.Struct, frozen=True):
    """A number on the metrics page.

    Attributes:
        family: Metric name; series of one family differ in their labels.
        about: Help line of the family.
        buckets: Upper bounds of a histogram, ascending, without the infinite one.
    """

    family: str
    about: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: dict[str, str]
    buckets: tuple[float, ...] = ()


class Meters(Protocol):
    """Metrics page for a model's own numbers. Thread-safe."""

    def open(self, series: Series) -> int:
        """Return a handle of a series, which all instances share and which may already exist.

        Raises:
            InvalidInput: the family exists in another form, or there are too many.
        """
        ...

    def change(self, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        """Change the number, without waiting."""
        ...

    def value(self, handle: int) -> float:
        """Return the current value, as shown on the metrics page."""
        ...


class PendingAnswer(Protocol):
    """A pending request to another model."""

    def more(self) -> None:
        """Acknowledge a piece of the answer, so that another may be sent."""
        ...

    def give_up(self) -> None:
        """Cancel the request."""
        ...


class ServerAccess(Protocol):
    """The server, as seen by a model in a host process. Thread-safe."""

    @property
    def meters(self) -> Meters:
        """Return the model's own metrics."""
        ...

    def infer(self, request: InferRequest, in_pieces: bool, hear: Hear) -> PendingAnswer:
        """Send a request to a model.

        Args:
            in_pieces: Accept any number of answers; a few are sent without acknowledgement, then each needs
                one.
        """
        ...

    def manage(self, wish: ModelCommand) -> bool:
        """Carry out a request about a model.

        Raises:
            SalverError: the request failed.
        """
        ...

    def log(self, level: int, text: str) -> None:
        """Write a line to the server's log, at a level of the standard library."""
        ...
