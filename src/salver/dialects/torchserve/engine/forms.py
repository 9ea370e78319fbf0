"""How do forms and replies of a handler travel between an engine and a host process?

Small bodies lie in the message itself, which then is all that is sent; large ones, and tensors of any other
kind, in the arena. Both ends are here; it knows no socket and no queue.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from salver.backends.protocol import Answer
from salver.kernel.engine.control import Handle, HandlerPiece, HandlerRequest, HandlerResponse, HandlerResult
from salver.kernel.engine.shm import Arena, Block
from salver.words.errors import ModelFailed
from salver.words.handlers import BODY
from salver.words.messages import InferRequest, ModelId, Parameter, RequestedOutput
from salver.words.tensor import Array, DataType, Tensor, tensor

#: Longest body that lies in a message.
INLINE = 16 << 10
#: Longest piece of an answer, which always does.
_LONGEST = 4 << 20
_BODY = (RequestedOutput(BODY),)
_NONE: Mapping[str, Parameter] = {}
_BYTES = np.dtype(np.uint8)


def order(requests: Sequence[InferRequest], arena: Arena, is_lone: bool = False) -> Handle:
    """What is sent to a host, whose arena then holds what is large.

    Raises:
        OSError, ValueError: there is no memory for it.
    """
    large: dict[str, Array] = {}
    sent = []
    for index, request in enumerate(requests):
        parts: list[tuple[str, bytes | Block]] = []
        for each in request.inputs:
            array = each.array
            if array.dtype is _BYTES and array.ndim == 1 and array.size <= INLINE:
                parts.append((each.name, array.tobytes()))
            else:
                large[f"{index}/{len(parts)}"] = array
                parts.append((each.name, b""))
        sent.append(HandlerRequest(request.id, tuple(parts), dict(request.parameters) or None, request.trace))
    if not large:
        return Handle(tuple(sent), is_lone)
    parts_of = [list(wanted.parts) for wanted in sent]
    for block in arena.write(large):
        index, place = map(int, block.name.split("/"))
        parts_of[index][place] = parts_of[index][place][0], block
    return Handle(
        tuple(
            HandlerRequest(wanted.id, tuple(parts), wanted.parameters, wanted.trace)
            for wanted, parts in zip(sent, parts_of, strict=True)
        )
    )


def asked(order: Handle, arena: Arena, id: ModelId) -> list[InferRequest]:
    """The requests of an order; what is large is a view that holds until the next order.

    Raises:
        ValueError, OSError: something does not lie where it should.
    """
    return [
        InferRequest(
            id.name,
            tuple([_input(name, data, arena) for name, data in wanted.parts]),
            id.version,
            wanted.id,
            _BODY,
            wanted.parameters or _NONE,
            wanted.trace,
        )
        for wanted in order.wanted
    ]


def _input(name: str, data: bytes | Block, arena: Arena) -> Tensor:
    if isinstance(data, bytes):
        return Tensor(name, DataType.UINT8, np.frombuffer(data, np.uint8))
    return tensor(name, arena.read((data,), copy=False)[data.name])


def bits(index: int, answer: Answer) -> list[HandlerPiece]:
    """A piece of an answer, or several where it is too long for one message."""
    body = _body(answer)
    if len(body) <= _LONGEST:
        return [HandlerPiece(index, HandlerResponse(body, dict(answer.parameters) or None, answer.again))]
    cuts = [body[start : start + _LONGEST] for start in range(0, len(body), _LONGEST)]
    first = HandlerPiece(index, HandlerResponse(cuts[0], dict(answer.parameters) or None, answer.again))
    return [first, *(HandlerPiece(index, HandlerResponse(cut)) for cut in cuts[1:])]


def handled(answers: Sequence[Answer], seconds: float, arena: Arena) -> HandlerResult:
    """What is sent back."""
    large: dict[str, Array] = {}
    said: list[HandlerResponse] = []
    for index, answer in enumerate(answers):
        array = answer.outputs.get(BODY)
        if array is not None and array.size > INLINE:
            large[str(index)] = np.frombuffer(_body(answer), np.uint8)
            body: bytes | None = None
        else:
            body = _body(answer)
        said.append(HandlerResponse(body, dict(answer.parameters) or None, answer.again))
    if large:
        for block in arena.write(large):
            one = said[int(block.name)]
            said[int(block.name)] = HandlerResponse(block, one.parameters, one.again)
    return HandlerResult(tuple(said), seconds)


def _body(answer: Answer) -> bytes:
    array = answer.outputs.get(BODY)
    if array is None:
        return b""
    if array.dtype != np.uint8:
        raise ModelFailed(f"a handler's reply is UINT8, not {array.dtype}")
    return array.tobytes()


def blocks(reply: HandlerResult) -> tuple[Block, ...]:
    """What of it lies in the arena."""
    return tuple([said.body for said in reply.said if isinstance(said.body, Block)])


def answers(reply: HandlerResult, read: Mapping[str, Array]) -> list[Answer]:
    """The answers of a reply, with what was read of its blocks."""
    return [answer(said, read) for said in reply.said]


def answer(said: HandlerResponse, read: Mapping[str, Array]) -> Answer:
    """One of them."""
    body = said.body
    array = read[body.name] if isinstance(body, Block) else np.frombuffer(body or b"", np.uint8)
    return Answer({BODY: array}, said.parameters or _NONE, said.again)
