"""Messages between the home process and a front. ``number`` is that of a request, counted by the front."""

from typing import Any

import msgspec

from salver.words.messages import Parameter, Standing, Timing

#: Name, datatype, shape and bytes of a tensor.
SentTensor = tuple[str, str, tuple[int, ...], bytes]
Headers = tuple[tuple[bytes, bytes], ...]
Address = tuple[str, int] | None


class Begin(msgspec.Struct, tag=1, array_like=True, gc=False):
    """Request with the first piece of its body.

    Attributes:
        arrival: When it was read, by the monotonic clock; 0 = now.
        lag: Seconds that it waited unread, at most.
        more: More of the body may come, which the home process asks for.
        count: Pieces that the body came in so far.
    """

    number: int
    method: str
    path: bytes
    query: bytes
    version: str
    scheme: str
    headers: Headers
    spelled: Headers
    client: Address
    server: Address
    arrival: float
    lag: float
    body: bytes
    more: bool
    count: int


class Piece(msgspec.Struct, tag=2, array_like=True, gc=False):
    """Next piece of a body; ``is_gone`` = the caller is gone before the end of it."""

    number: int
    body: bytes
    more: bool
    count: int
    is_gone: bool = False


class Gone(msgspec.Struct, tag=3, array_like=True, gc=False):
    """The caller is gone."""

    number: int


class Read(msgspec.Struct, tag=4, array_like=True, gc=False):
    """The caller has taken so many bytes of an answer in pieces."""

    number: int
    size: int


class Ack(msgspec.Struct, tag=5, array_like=True, gc=False):
    """Copies that are not in the list of this epoch answer no more requests."""

    epoch: int


class Happened(msgspec.Struct, tag=6, array_like=True, gc=False):
    """Events of copies, as :class:`~salver.words.events.Served` and ``BatchRan`` in lists."""

    served: msgspec.Raw
    ran: msgspec.Raw


class Logged(msgspec.Struct, tag=7, array_like=True, gc=False):
    """Line for the log; the message is a text, or a dictionary of fields."""

    logger: str
    level: int
    message: Any


class Ask(msgspec.Struct, tag=8, array_like=True, gc=False):
    """Decoded request to an engine of the home process. Its numbers are counted by themselves.

    Attributes:
        engine: Key of the engine, as in :class:`Copies`.
        id: The caller's own id.
        outputs: Names of the requested outputs; empty = all.
        deadline: By the monotonic clock, which all processes share; None = none.
        standing: None = that of a request without one.
        came: See :class:`~salver.words.messages.InferRequest`.
    """

    number: int
    engine: int
    id: str
    inputs: tuple[SentTensor, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter] | None
    deadline: float | None
    standing: Standing | None
    came: float


class Leave(msgspec.Struct, tag=9, array_like=True, gc=False):
    """The caller of a decoded request is gone."""

    number: int


FromFront = Begin | Piece | Gone | Read | Ack | Happened | Logged | Ask | Leave


class Answer(msgspec.Struct, tag=1, array_like=True, gc=False):
    """Piece of an answer, with its head before the first one.

    Attributes:
        status: Status; 0 = the head was sent before.
        reason: Reason phrase; None = the usual one.
        trails: Trailers follow the body.
        more: More of the body follows.
    """

    number: int
    status: int
    headers: Headers
    reason: str | None
    trails: bool
    body: bytes
    more: bool


class Trailers(msgspec.Struct, tag=2, array_like=True, gc=False):
    """Trailers, which end an answer."""

    number: int
    headers: Headers


class Reply(msgspec.Struct, tag=7, array_like=True, gc=False):
    """Whole answer, without its length and the request's id in the headers."""

    number: int
    status: int
    headers: Headers
    body: bytes
    request_id: str


class GrpcReply(msgspec.Struct, tag=8, array_like=True, gc=False):
    """Whole answer to a gRPC call: the one message with code 0, or else a status."""

    number: int
    message: bytes
    headers: Headers
    code: int = 0
    text: str = ""
    pushback_ms: int = 0


class Failed(msgspec.Struct, tag=3, array_like=True, gc=False):
    """The application failed, or ended without a whole answer."""

    number: int


class Pull(msgspec.Struct, tag=4, array_like=True, gc=False):
    """The application wants the next piece of the body."""

    number: int


class Copies(msgspec.Struct, tag=5, array_like=True, gc=False):
    """Versions whose requests the front decodes, each as a pickled :class:`~.copies.Granted`."""

    epoch: int
    granted: tuple[bytes, ...]


class Parting(msgspec.Struct, tag=6, array_like=True, gc=False):
    """Tell callers to close; with ``is_last``, accept no more connections, answer what has come, and end."""

    is_last: bool


class Outputs(msgspec.Struct, tag=9, array_like=True, gc=False):
    """Answer to an :class:`Ask`."""

    number: int
    outputs: tuple[SentTensor, ...]
    parameters: dict[str, Parameter] | None
    timing: Timing


class Refusal(msgspec.Struct, tag=10, array_like=True, gc=False):
    """Error of an :class:`Ask`, as a pickled :class:`~salver.words.errors.SalverError` and its attributes."""

    number: int
    error: bytes


FromHome = Reply | GrpcReply | Outputs | Refusal | Answer | Trailers | Failed | Pull | Copies | Parting
