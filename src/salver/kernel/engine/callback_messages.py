"""What do a model in a host process and the server say to each other beside the runs?

The messages of the side channel, which is there for models that may ask the server; framed and encoded as
those of :mod:`salver.kernel.engine.control`. Either side may speak at any time. Tensors lie in an arena for
each
direction, in which one message's lie at a time: who has copied them says :class:`Taken`, then the next
may come. Sans-IO.
"""

from typing import Literal

import msgspec

from salver.backends.callbacks import Series
from salver.kernel.engine.control import Failed, Said
from salver.kernel.engine.shm import Block
from salver.words.messages import Parameter

#: Requests of one host that may be under way; one more is refused.
MOST_CALLS = 1024
#: Pieces of an answer that may be on their way unasked.
WINDOW = 16


class Ask(msgspec.Struct, tag="ask", frozen=True, array_like=True):
    """A request to a model.

    Attributes:
        id: The asker's mark, by which it is answered.
        types: Datatypes of the inputs, in their order.
        is_of_run: The run under way waits for it.
        trace: W3C trace context of the request in whose service it is, or empty.
    """

    id: int
    model: str
    version: str
    request_id: str
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter]
    inputs: tuple[Block, ...]
    types: tuple[str, ...]
    in_pieces: bool
    is_of_run: bool
    trace: str


class More(msgspec.Struct, tag="more", frozen=True, array_like=True):
    """A piece of that answer was used up."""

    id: int


class Drop(msgspec.Struct, tag="drop", frozen=True, array_like=True):
    """Nobody wants that answer; it is still to be ended."""

    id: int


class Manage(msgspec.Struct, tag="manage", frozen=True, array_like=True):
    """Load, unload or look at a model; ``files`` are those that come with a load, by path."""

    id: int
    kind: Literal["load", "unload", "is_ready"]
    model: str
    version: str
    config: str
    dependents: bool
    files: tuple[Block, ...]


class OpenSeries(msgspec.Struct, tag="open", frozen=True, array_like=True):
    """A handle on a number of the metrics page is wanted."""

    id: int
    series: Series


class Change(msgspec.Struct, tag="change", frozen=True, array_like=True, gc=False):
    """Change a number; there is no answer."""

    handle: int
    how: Literal["add", "set", "observe"]
    value: float


class ReadSeries(msgspec.Struct, tag="read", frozen=True, array_like=True, gc=False):
    """The number is wanted."""

    id: int
    handle: int


class IsGone(msgspec.Struct, tag="gone", frozen=True, array_like=True, gc=False):
    """Has the caller of that request of the run under way gone?"""

    id: int
    index: int


class Log(msgspec.Struct, tag="log", frozen=True, array_like=True, gc=False):
    """A line for the log, at a level of the standard library's."""

    level: int
    text: str


class Ready(msgspec.Struct, tag="ready", frozen=True, array_like=True, gc=False):
    """The model says whether it is ready; the answer to :class:`Probe`."""

    is_ready: bool


class Taken(msgspec.Struct, tag="taken", frozen=True, array_like=True, gc=False):
    """The tensors of the last message that had any are copied."""


class Told(msgspec.Struct, tag="told", frozen=True, array_like=True):
    """An answer, or a piece of one.

    Attributes:
        answer: None = there is nothing but the end to tell.
        is_last: The model knows that none follows; the end itself may follow all the same.
        is_end: Nothing follows.
    """

    id: int
    outputs: tuple[Block, ...]
    types: tuple[str, ...]
    answer: Said | Failed | None
    is_last: bool
    is_end: bool


class Probe(msgspec.Struct, tag="probe", frozen=True, array_like=True, gc=False):
    """Is the model ready, by its own account?"""


#: Of the host.
Saying = Ask | More | Drop | Manage | OpenSeries | Change | ReadSeries | IsGone | Log | Ready | Taken
#: Of the server.
Telling = Told | Probe | Taken

read_saying = msgspec.msgpack.Decoder(Saying).decode
read_telling = msgspec.msgpack.Decoder(Telling).decode
