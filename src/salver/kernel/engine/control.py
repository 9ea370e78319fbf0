"""Messages of the control channel between an engine and a host process, and their framing.

A frame is four bytes of length (little-endian), then MessagePack. Tensors do not travel here, only their
positions (:mod:`salver.kernel.engine.shm`). Nothing is pickled: a model that writes to the channel can
confuse only its own host. Sans-IO: no socket is known here.

Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from salver.backends.protocol import LoadOptions
from salver.kernel.engine.shm import Block
from salver.words import errors
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, SalverError, TooLarge
from salver.words.messages import Parameter, Signature
from salver.words.tensor import Array

#: Longest accepted frame; a longer one is an error.
MAX_FRAME = 64 << 20


class Load(msgspec.Struct, tag="load", frozen=True, array_like=True):
    """First message to a host.

    Attributes:
        backend: ``module:attribute`` of a backend, or of a class of one.
        path: The engine's ``sys.path``, so that the host finds the same modules; empty = the host's own.
        memory_limit_mb: Address-space limit, set before the backend is imported; 0 = none.
        program: ``module:function`` of the :class:`~salver.kernel.engine.host.Program` that the host runs;
            empty = the kernel's own.
        forks: The host is a fork server: it forks other hosts if that is safe, and runs nothing itself. For
            programs that can be one.
        variables: Environment variables to set after loading, for a fork server.
        imports: Modules that a fork server imports instead of a model; its children load the model.
    """

    backend: str
    manifest: Manifest
    options: LoadOptions
    path: tuple[str, ...]
    memory_limit_mb: int = 0
    program: str = ""
    forks: bool = False
    variables: dict[str, str] = {}
    imports: tuple[str, ...] = ()


class Fork(msgspec.Struct, tag="fork", frozen=True, array_like=True):
    """Order to fork a host; its descriptors are sent beside this message."""


class Reap(msgspec.Struct, tag="reap", frozen=True, array_like=True):
    """Notice that a forked host has died and can be forgotten."""

    pid: int


class ForkResult(msgspec.Struct, tag="forked", frozen=True, array_like=True):
    """Process id of a forked host; -1 = failed, with the reason."""

    pid: int
    why: str = ""


class RequestHead(msgspec.Struct, frozen=True, array_like=True):
    """Fields of a request other than its inputs; ``outputs`` names the requested ones.

    A request with default values is sent as None.
    """

    id: str
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter]
    trace: str = ""


class Run(msgspec.Struct, tag="run", frozen=True, array_like=True, gc=False):
    """Order to run the model.

    Attributes:
        asked: Requests, for a model that takes them one by one.
        rows: Rows of each request if their inputs are stacked; empty = inputs are :func:`numbered`, unless
            there is only one request.
        marks: Unique marks of the requests, for a streaming model.
    """

    inputs: tuple[Block, ...]
    asked: tuple[RequestHead | None, ...] = ()
    rows: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()


class Next(msgspec.Struct, tag="next", frozen=True, array_like=True):
    """Acknowledgement of the last piece of a request; the next one may be sent."""

    mark: int


class GiveUp(msgspec.Struct, tag="give_up", frozen=True, array_like=True):
    """Cancellation of a request's pieces; its end is still sent."""

    mark: int


class TensorsTaken(msgspec.Struct, tag="taken", frozen=True, array_like=True):
    """Acknowledgement that the tensors of the last piece have been copied."""


class Stop(msgspec.Struct, tag="stop", frozen=True, array_like=True):
    """Order to close the model and exit."""


class HandlerRequest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Request to a handler, or only the id of one that takes part in the next step.

    Attributes:
        parts: Inputs by name: the bytes of a small one, else its position.
    """

    id: str
    parts: tuple[tuple[str, bytes | Block], ...] = ()
    parameters: dict[str, Parameter] | None = None
    trace: str = ""


class Handle(msgspec.Struct, tag="handle", frozen=True, array_like=True, gc=False):
    """Order to handle requests; ``is_lone`` = no other request waits, so the next may follow immediately."""

    wanted: tuple[HandlerRequest, ...]
    is_lone: bool = False


class LoadResult(msgspec.Struct, tag="loaded", frozen=True, array_like=True):
    """Reply after loading.

    Attributes:
        asks: Kind of input: ``batch``, stacked arrays; ``requests``, one by one; ``stream``, one by one, each
            answered in pieces; ``forms``, one by one, each possibly answered in pieces.
        has_opinion: The model reports its own readiness.
        wants_trace: Requests must include their span.
        alone: Why a fork server cannot fork and runs orders itself; empty = it can.
        imports: Modules imported by a fork server that cannot fork.
    """

    signature: Signature
    asks: Literal["batch", "requests", "stream", "forms"] = "batch"
    has_opinion: bool = False
    wants_trace: bool = False
    alone: str = ""
    imports: tuple[str, ...] = ()


class ResponseHead(msgspec.Struct, tag="said", frozen=True, array_like=True):
    """Answer to one request; ``parameters`` are the response's, ``again`` as in Answer."""

    parameters: dict[str, Parameter]
    again: bool = False


class RunError(msgspec.Struct, tag="failed", frozen=True, array_like=True):
    """Error while loading or running. ``kind`` is the name of a class in ``salver.words.errors``."""

    kind: str
    message: str
    field: str = ""
    fix: str = ""


class RunResult(msgspec.Struct, tag="ran", frozen=True, array_like=True):
    """Reply after a run with its duration in seconds; a streaming model may still send pieces.

    Attributes:
        answers: Answer to each request, for a model that takes them one by one; None = answered without
            parameters.
        rows: Rows of the outputs, as in :class:`Run`; failed requests have none.
    """

    outputs: tuple[Block, ...]
    seconds: float
    answers: tuple[ResponseHead | RunError | None, ...] = ()
    rows: tuple[int, ...] = ()


class Piece(msgspec.Struct, tag="piece", frozen=True, array_like=True):
    """One response of a streamed answer, acknowledged by :class:`TensorsTaken` and :class:`Next`."""

    mark: int
    outputs: tuple[Block, ...]
    answer: ResponseHead | RunError
    is_last: bool


class EndOfPieces(msgspec.Struct, tag="over", frozen=True, array_like=True):
    """End of a request's pieces; ``why`` = the error if its model failed."""

    mark: int
    why: RunError | None = None


class HandlerResponse(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Response of a handler; ``body`` as in :class:`HandlerRequest`, ``again`` as in Answer."""

    body: bytes | Block | None = None
    parameters: dict[str, Parameter] | None = None
    again: bool = False


class HandlerPiece(msgspec.Struct, tag="bit", frozen=True, array_like=True, gc=False):
    """Piece of a handler's answer to one of the current requests, identified by its index."""

    index: int
    said: HandlerResponse


class HandlerResult(msgspec.Struct, tag="handled", frozen=True, array_like=True, gc=False):
    """Reply after all requests have been handled, with the duration in seconds."""

    said: tuple[HandlerResponse, ...]
    seconds: float


Order = Load | Run | Handle | Fork | Reap | Next | GiveUp | TensorsTaken | Stop
Reply = LoadResult | ForkResult | Piece | EndOfPieces | RunResult | HandlerResult | HandlerPiece | RunError


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"the control channel carries no {type(value).__name__}")


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_printable(part) for part in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(part) for key, part in value.items()}
    return value


def _typed(kind: type, value: Any) -> Any:
    if issubclass(kind, Path):
        return kind(value)
    raise NotImplementedError(f"the control channel carries no {kind.__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order, dec_hook=_typed)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply, dec_hook=_typed)
read_order = _orders.decode
read_reply = _replies.decode


def frame(message: msgspec.Struct) -> bytearray:
    """Return the bytes to send.

    Raises:
        TooLarge: they exceed :data:`MAX_FRAME`, which the receiver would reject.
    """
    out = bytearray(4)
    try:
        _encoder.encode_into(message, out, 4)
    except UnicodeEncodeError:  # a lone surrogate in a model's text
        plain = msgspec.to_builtins(message, builtin_types=(bytes, bytearray, memoryview), enc_hook=_plain)
        _encoder.encode_into(_printable(plain), out, 4)
    if len(out) > MAX_FRAME:
        raise TooLarge(
            f"the parameters of a request or an answer take {len(out)} bytes; the limit between server and "
            f"model is {MAX_FRAME}",
            fix="Send long texts as BYTES tensors.",
        )
    out[:4] = (len(out) - 4).to_bytes(4, "little")
    return out


def numbered(parts: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """Combine the arrays of several requests in one mapping: those of the first are ``0/name``, and so on.

    >>> import numpy as np
    >>> list(numbered([{"x": np.zeros(1)}, {"x": np.ones(1), "y/z": np.ones(1)}]))
    ['0/x', '1/x', '1/y/z']
    """
    return {f"{index}/{name}": array for index, part in enumerate(parts) for name, array in part.items()}


def by_number(arrays: Mapping[str, Array], count: int) -> list[dict[str, Array]]:
    """Split a mapping made by :func:`numbered`.

    Raises:
        ValueError: an array's number is out of range.
    """
    parts: list[dict[str, Array]] = [{} for _ in range(count)]
    for key, array in arrays.items():
        index, _, name = key.partition("/")
        if not index.isdecimal() or int(index) >= count:  # a host may say anything
            raise ValueError(f"an array called {key!r} of {count} requests")
        parts[int(index)][name] = array
    return parts


def stacked(parts: Sequence[Sequence[tuple[str, Array]]]) -> dict[str, list[Array]] | None:
    """Return the arrays of several requests by name if they can be joined along axis 0; else None.

    >>> import numpy as np
    >>> stacked([[("x", np.zeros((1, 2)))], [("x", np.zeros((1, 3)))]])
    """
    columns: dict[str, list[Array]] = {}
    for index, (name, first) in enumerate(parts[0]):
        column = [first]
        for part in parts[1:]:
            if len(part) != len(parts[0]):
                return None
            other, array = part[index]
            # Requests with optional inputs may differ in names; those go numbered.
            if other != name or array.dtype != first.dtype or array.shape[1:] != first.shape[1:]:
                return None
            column.append(array)
        if not first.ndim:  # a scalar has no rows to join
            return None
        columns[name] = column
    return columns or None


def cut(arrays: Mapping[str, Array], rows: Iterable[int]) -> list[dict[str, Array]]:
    """Split stacked arrays into parts of that many rows each.

    >>> import numpy as np
    >>> [part["x"].tolist() for part in cut({"x": np.arange(3)}, (1, 2))]
    [[0], [1, 2]]
    """
    pairs = list(arrays.items())
    parts = []
    start = 0
    for count in rows:
        end = start + count
        parts.append({name: array[start:end] for name, array in pairs})
        start = end
    return parts


def apart(arrays: Mapping[str, Array], rows: tuple[int, ...], count: int) -> Sequence[Mapping[str, Array]]:
    """Return the arrays of each request, whether they are stacked or numbered.

    Raises:
        ValueError: they cannot be split.
    """
    if not rows:
        if count == 1:
            return [arrays]
        return by_number(arrays, count)
    total = sum(rows)
    # Believe nothing that a host says: its model may have written to the channel.
    if len(rows) != count or min(rows) < 0 or any(a.shape[:1] != (total,) for a in arrays.values()):
        raise ValueError(f"stacked arrays that are not {count} times {rows} rows")
    return cut(arrays, rows)


class Frames:
    """Splitter of a byte stream into the payloads of its frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the payloads that are complete now.

        Raises:
            ValueError: the length of a frame exceeds :data:`MAX_FRAME`.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            length = int.from_bytes(buffer[:4], "little")
            # Refuse by the length alone, before memory is spent on the content.
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            if len(buffer) < 4 + length:
                return
            payload = bytes(buffer[4 : 4 + length])  # a copy: the buffer moves on
            del buffer[: 4 + length]
            yield payload


_KINDS: dict[str, type[SalverError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, SalverError) and kind is not errors.MissingExtra
}


def describe(error: SalverError) -> RunError:
    """Return an error as a message; one with a constructor of its own is sent as its base class."""
    kind = LoadFailed if isinstance(error, errors.MissingExtra) else type(error)
    texts = (error.message, error.field, error.fix)  # a model may have replaced them by anything
    return RunError(kind.__name__, *map(str, texts))


def rebuild(failed: RunError) -> SalverError:
    """Restore the error of a message; an unknown kind (a model's own) becomes ModelFailed."""
    kind = _KINDS.get(failed.kind, errors.ModelFailed)
    return kind(failed.message, field=failed.field, fix=failed.fix)
