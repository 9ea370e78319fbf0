"""What do an engine and a host process say to each other?

The messages of the control channel and their framing: four bytes of length (little-endian),
then MessagePack. Tensors do not travel here, only where they lie (:mod:`salver.kernel.engine.shm`).
Nothing is pickled: a model that writes to the channel can confuse its own host and no one
else. Sans-IO: no socket is known here.

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

#: Longest frame that is believed; a longer one is nonsense, not a message.
MAX_FRAME = 64 << 20


class Load(msgspec.Struct, tag="load", frozen=True, array_like=True):
    """The first message to a host.

    Attributes:
        backend: ``module:attribute`` of a backend, or of a class of one.
        path: The engine's ``sys.path``, so that the host finds the same modules; empty = it has its own.
        memory_limit_mb: Address-space limit, set before the backend is imported; 0 = none.
        bears: The host is to fork others, if that is safe, and to run nothing itself
            (:mod:`salver.dialects.torchserve.engine.sharing`).
        variables: Of its environment, which it shall have once it is loaded; told to one that bears.
        imports: Modules; one that bears imports these and no model, which those that it bears load then.
    """

    backend: str
    manifest: Manifest
    options: LoadOptions
    path: tuple[str, ...]
    memory_limit_mb: int = 0
    bears: bool = False
    variables: dict[str, str] = {}
    imports: tuple[str, ...] = ()


class Fork(msgspec.Struct, tag="fork", frozen=True, array_like=True):
    """Bear a host; the descriptors that it is to have come beside this."""


class Reap(msgspec.Struct, tag="reap", frozen=True, array_like=True):
    """One that was born is dead, and nothing more is to be learned of it."""

    pid: int


class Forked(msgspec.Struct, tag="forked", frozen=True, array_like=True):
    """It is there; -1 = it is not, and why."""

    pid: int
    why: str = ""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """What a request says beside its inputs; ``outputs`` names those that are wanted.

    One that says nothing and wants every output travels as None.
    """

    id: str
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter]
    trace: str = ""


class Run(msgspec.Struct, tag="run", frozen=True, array_like=True, gc=False):
    """Run the model on these inputs.

    Attributes:
        asked: The requests of a model that wants them one by one.
        rows: Their inputs are stacked, so many rows of each; empty = they are :func:`numbered`, unless
            there is only one request.
        marks: Of the requests of a model that streams, each with one of its own.
    """

    inputs: tuple[Block, ...]
    asked: tuple[Asked | None, ...] = ()
    rows: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()


class Next(msgspec.Struct, tag="next", frozen=True, array_like=True):
    """The last piece of that request has been taken; its next one may come."""

    mark: int


class GiveUp(msgspec.Struct, tag="give_up", frozen=True, array_like=True):
    """Nobody wants more pieces of that request; its end is still to be told."""

    mark: int


class Taken(msgspec.Struct, tag="taken", frozen=True, array_like=True):
    """The tensors of the last piece are copied; another's may lie there."""


class Stop(msgspec.Struct, tag="stop", frozen=True, array_like=True):
    """Close the model and exit."""


class Wanted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request to a handler, or, of one that takes part in the next step, its id alone.

    Attributes:
        parts: Inputs by name; bytes of a small one, else where it lies.
    """

    id: str
    parts: tuple[tuple[str, bytes | Block], ...] = ()
    parameters: dict[str, Parameter] | None = None
    trace: str = ""


class Handle(msgspec.Struct, tag="handle", frozen=True, array_like=True, gc=False):
    """Reply to these; ``is_lone`` says that nobody else waits, so that the next one may come at once."""

    wanted: tuple[Wanted, ...]
    is_lone: bool = False


class Loaded(msgspec.Struct, tag="loaded", frozen=True, array_like=True):
    """The model is there.

    Attributes:
        asks: What it wants: ``batch``, stacked arrays; ``requests``, one by one; ``stream``, one by one, each
            of which it answers in pieces; ``forms``, one by one, each of which it may answer in pieces.
        has_opinion: It says itself whether it is ready.
        wants_trace: Requests shall bring their span.
        alone: Why it cannot fork others, of one that should, and runs what it is told itself.
        imports: Modules that it has imported, of one that is alone.
    """

    signature: Signature
    asks: Literal["batch", "requests", "stream", "forms"] = "batch"
    has_opinion: bool = False
    wants_trace: bool = False
    alone: str = ""
    imports: tuple[str, ...] = ()


class Said(msgspec.Struct, tag="said", frozen=True, array_like=True):
    """One request was answered; ``parameters`` are the response's, ``again`` as in an Answer."""

    parameters: dict[str, Parameter]
    again: bool = False


class Failed(msgspec.Struct, tag="failed", frozen=True, array_like=True):
    """It raised, while loading or running. ``kind`` is the name of a class of ``salver.words.errors``."""

    kind: str
    message: str
    field: str = ""
    fix: str = ""


class Ran(msgspec.Struct, tag="ran", frozen=True, array_like=True):
    """It ran, for so many seconds; of a model that streams, pieces may follow all the same.

    Attributes:
        answers: To each request, of a model that wants them one by one; None = it was answered, without
            parameters.
        rows: As in :class:`Run`, of the outputs; those that failed have none.
    """

    outputs: tuple[Block, ...]
    seconds: float
    answers: tuple[Said | Failed | None, ...] = ()
    rows: tuple[int, ...] = ()


class Piece(msgspec.Struct, tag="piece", frozen=True, array_like=True):
    """One of the responses to a request, of which the next one waits for :class:`Next`, and all for
    :class:`Taken`.
    """

    mark: int
    outputs: tuple[Block, ...]
    answer: Said | Failed
    is_last: bool


class Over(msgspec.Struct, tag="over", frozen=True, array_like=True):
    """No piece follows to that request; ``why``, if its model failed."""

    mark: int
    why: Failed | None = None


class Uttered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a handler says to one request; ``body`` as a part of :class:`Wanted`, ``again`` as an Answer."""

    body: bytes | Block | None = None
    parameters: dict[str, Parameter] | None = None
    again: bool = False


class Bit(msgspec.Struct, tag="bit", frozen=True, array_like=True, gc=False):
    """A piece of the answer to one of the requests that are being handled, by its place among them."""

    index: int
    said: Uttered


class Handled(msgspec.Struct, tag="handled", frozen=True, array_like=True, gc=False):
    """They were all replied to, in so many seconds."""

    said: tuple[Uttered, ...]
    seconds: float


Order = Load | Run | Handle | Fork | Reap | Next | GiveUp | Taken | Stop
Reply = Loaded | Forked | Piece | Over | Ran | Handled | Bit | Failed


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
    """The bytes to send.

    Raises:
        TooLarge: they are more than :data:`MAX_FRAME`, which the other side would not believe.
    """
    out = bytearray(4)
    try:
        _encoder.encode_into(message, out, 4)
    except UnicodeEncodeError:  # a lone surrogate in what a model said
        plain = msgspec.to_builtins(message, builtin_types=(bytes, bytearray, memoryview), enc_hook=_plain)
        _encoder.encode_into(_printable(plain), out, 4)
    if len(out) > MAX_FRAME:
        raise TooLarge(
            f"what is said beside the tensors of a request or an answer takes {len(out)} bytes; between "
            f"server and model it may take {MAX_FRAME}",
            fix="Send long texts as BYTES tensors.",
        )
    out[:4] = (len(out) - 4).to_bytes(4, "little")
    return out


def numbered(parts: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of several requests under one roof: those of the first are ``0/name``, and so on.

    >>> import numpy as np
    >>> list(numbered([{"x": np.zeros(1)}, {"x": np.ones(1), "y/z": np.ones(1)}]))
    ['0/x', '1/x', '1/y/z']
    """
    return {f"{index}/{name}": array for index, part in enumerate(parts) for name, array in part.items()}


def by_number(arrays: Mapping[str, Array], count: int) -> list[dict[str, Array]]:
    """The same, taken apart again.

    Raises:
        ValueError: an array belongs to none of so many requests.
    """
    parts: list[dict[str, Array]] = [{} for _ in range(count)]
    for key, array in arrays.items():
        index, _, name = key.partition("/")
        if not index.isdecimal() or int(index) >= count:
            raise ValueError(f"an array called {key!r} of {count} requests")
        parts[int(index)][name] = array
    return parts


def stacked(parts: Sequence[Sequence[tuple[str, Array]]]) -> dict[str, list[Array]] | None:
    """The arrays of several requests by name, where they can be joined along axis 0; else None.

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
            if other != name or array.dtype != first.dtype or array.shape[1:] != first.shape[1:]:
                return None
            column.append(array)
        if not first.ndim:
            return None
        columns[name] = column
    return columns or None


def cut(arrays: Mapping[str, Array], rows: Iterable[int]) -> list[dict[str, Array]]:
    """Stacked arrays, taken apart into so many rows each.

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
    """The arrays of each of so many requests, in whichever way they were put together.

    Raises:
        ValueError: they cannot be taken apart so.
    """
    if not rows:
        return [arrays] if count == 1 else by_number(arrays, count)
    total = sum(rows)
    if len(rows) != count or min(rows) < 0 or any(a.shape[:1] != (total,) for a in arrays.values()):
        raise ValueError(f"stacked arrays that are not {count} times {rows} rows")
    return cut(arrays, rows)


class Frames:
    """Cuts a byte stream into the payloads of its frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Payloads that are complete now.

        Raises:
            ValueError: a frame claims to be longer than :data:`MAX_FRAME`.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            length = int.from_bytes(buffer[:4], "little")
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            if len(buffer) < 4 + length:
                return
            payload = bytes(buffer[4 : 4 + length])
            del buffer[: 4 + length]
            yield payload


_KINDS: dict[str, type[SalverError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, SalverError) and kind is not errors.MissingExtra
}


def describe(error: SalverError) -> Failed:
    """An error as a message; one with a constructor of its own travels as its base."""
    kind = LoadFailed if isinstance(error, errors.MissingExtra) else type(error)
    texts = (error.message, error.field, error.fix)  # whatever a model has made of them
    return Failed(kind.__name__, *map(str, texts))


def rebuild(failed: Failed) -> SalverError:
    """The error again; a kind that is not known here (a model's own) is a ModelFailed."""
    kind = _KINDS.get(failed.kind, errors.ModelFailed)
    return kind(failed.message, field=failed.field, fix=failed.fix)
