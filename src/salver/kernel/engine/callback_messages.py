"""Messages of the callback channel between a model in a host process and the server.

The channel exists for models that may call the server; framing and encoding are those of
:mod:`salver.kernel.engine.control`. Either side may send at any time. Tensors lie in one arena per direction,
which holds those of one message at a time: the receiver sends :class:`TensorsTaken` when it has copied them.
Sans-IO.
"""

from typing import Literal

import msgspec

from salver.backends.callbacks import Series
from salver.kernel.engine.control import ResponseHead, RunError
from salver.kernel.engine.shm import Block
from salver.words.messages import Parameter

#: Maximum number of pending requests of one host; further ones are rejected.
MOST_CALLS = 1024
#: Pieces of an answer that may be sent without acknowledgement.
WINDOW = 16


class ModelCall(msgspec.Struct, tag="ask", frozen=True, array_like=True):
    """Request to a model.

    Attributes:
        id: Chosen by the sender to match the answer.
        types: Datatypes of the inputs, in order.
        is_of_run: The current run waits for the answer.
        trace: W3C trace context of the request that causes this one, or empty.
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
    """Acknowledgement of a piece of an answer."""

    id: int


class Drop(msgspec.Struct, tag="drop", frozen=True, array_like=True):
    """Cancellation of a request; its end is still sent."""

    id: int


class Manage(msgspec.Struct, tag="manage", frozen=True, array_like=True):
    """Request to load, unload or describe a model; ``files`` are those of a load, by path."""

    id: int
    kind: Literal["load", "unload", "is_ready"]
    model: str
    version: str
    config: str
    dependents: bool
    files: tuple[Block, ...]


class OpenSeries(msgspec.Struct, tag="open", frozen=True, array_like=True):
    """Request for a handle of a series on the metrics page."""

    id: int
    series: Series


class Change(msgspec.Struct, tag="change", frozen=True, array_like=True, gc=False):
    """Change of a number, without an answer."""

    handle: int
    how: Literal["add", "set", "observe"]
    value: float


class ReadSeries(msgspec.Struct, tag="read", frozen=True, array_like=True, gc=False):
    """Request for the value of a number."""

    id: int
    handle: int


class IsGone(msgspec.Struct, tag="gone", frozen=True, array_like=True, gc=False):
    """Question whether the caller of a request of the current run has gone away."""

    id: int
    index: int


class Log(msgspec.Struct, tag="log", frozen=True, array_like=True, gc=False):
    """Line for the log, at a level of the standard library."""

    level: int
    text: str


class Ready(msgspec.Struct, tag="ready", frozen=True, array_like=True, gc=False):
    """Answer to :class:`Probe`: whether the model is ready."""

    is_ready: bool


class TensorsTaken(msgspec.Struct, tag="taken", frozen=True, array_like=True, gc=False):
    """Acknowledgement that the tensors of the last message have been copied."""


class CallResult(msgspec.Struct, tag="told", frozen=True, array_like=True):
    """An answer or a piece of one.

    Attributes:
        answer: None = only the end.
        is_last: The model knows that no piece follows; the end may still be sent separately.
        is_end: Nothing follows.
    """

    id: int
    outputs: tuple[Block, ...]
    types: tuple[str, ...]
    answer: ResponseHead | RunError | None
    is_last: bool
    is_end: bool


class Probe(msgspec.Struct, tag="probe", frozen=True, array_like=True, gc=False):
    """Question whether the model considers itself ready."""


#: Messages from the host.
Saying = (
    ModelCall | More | Drop | Manage | OpenSeries | Change | ReadSeries | IsGone | Log | Ready | TensorsTaken
)
#: Messages from the server.
Telling = CallResult | Probe | TensorsTaken

read_saying = msgspec.msgpack.Decoder(Saying).decode
read_telling = msgspec.msgpack.Decoder(Telling).decode
