"""What may a model in a host process ask of the server around it?

Other models' answers, loading and unloading, lines in the server's log, and numbers on its metrics page.
:mod:`salver.kernel.engine.callback_client` carries it out.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from salver.words.artifacts import LoadOrder
from salver.words.messages import InferRequest, InferResponse

_AS_IT_LIES = LoadOrder()
#: Takes the answers to a request, on a thread of the surroundings' own, and whether none follows. None =
#: there is nothing but that to say.
Hear = Callable[[InferResponse | None, bool], None]


class Wish(msgspec.Struct, frozen=True):
    """A model that is to be loaded, unloaded or looked at.

    Attributes:
        version: Of the one to look at; empty = whichever the server would choose.
        dependents: The steps of an ensemble are to be unloaded with it.
    """

    kind: Literal["load", "unload", "is_ready"]
    model: str
    version: str = ""
    order: LoadOrder = _AS_IT_LIES
    dependents: bool = False


class Series(msgspec.Struct, frozen=True):
    """A number on the metrics page.

    Attributes:
        family: Its name there; several series of one family differ in their labels.
        about: The family's one line of help.
        buckets: Upper bounds of a histogram's, ascending, without the last one, which is infinite.
    """

    family: str
    about: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: dict[str, str]
    buckets: tuple[float, ...] = ()


class Meters(Protocol):
    """The metrics page, for numbers of a model's own. Any thread may call it."""

    def open(self, series: Series) -> int:
        """A handle on a series, which may be there already: it is one for all instances.

        Raises:
            InvalidInput: the family is there in another form, or there are too many.
        """
        ...

    def change(self, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        """Without waiting."""
        ...

    def value(self, handle: int) -> float:
        """As the page would show it now."""
        ...


class Asked(Protocol):
    """A request to another model, under way."""

    def more(self) -> None:
        """One of the pieces of its answer has been used up: another may come."""
        ...

    def give_up(self) -> None:
        """Nobody wants the answer."""
        ...


class Surroundings(Protocol):
    """The server, as a model in a host process sees it. Any thread may call it."""

    @property
    def meters(self) -> Meters:
        """Numbers of the model's own."""
        ...

    def infer(self, request: InferRequest, in_pieces: bool, hear: Hear) -> Asked:
        """Ask a model.

        Args:
            in_pieces: Any number of answers is welcome; a few come unasked, then each is called for.
        """
        ...

    def manage(self, wish: Wish) -> bool:
        """Carry it out, or look.

        Raises:
            SalverError: what kept it from being done.
        """
        ...

    def log(self, level: int, text: str) -> None:
        """A line for the server's log, at a level of the standard library's."""
        ...
