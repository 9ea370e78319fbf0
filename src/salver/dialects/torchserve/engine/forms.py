"""Encoding of forms and replies between an engine and a host process.

Small bodies are part of the message; large ones, and tensors of other types, are in the arena. Both ends are
here.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from salver.backends.protocol import Answer
from salver.kernel.engine.control import Handle, HandlerPiece, HandlerRequest, HandlerResponse, HandlerResult
from salver.kernel.engine.shm import Arena, Block
from salver.words.errors import ModelFailed
from salver.words.handlers import BODY
from salver.words.messages import InferRequest, ModelId, Parameter, RequestedOutput
from salver.words.tensor import Array, DataType, Tensor, tensor

#: Longest body that is part of a message.
INLINE = 16 << 10
#: Longest piece of an answer in one message; pieces never use the arena.
_LONGEST = 4 << 20
_BODY = (RequestedOutput(BODY),)
_NONE: Mapping[str, Parameter] = {}
_BYTES = np.dtype(np.uint8)


def encode_order(requests: Sequence[InferRequest], arena: Arena, is_lone: bool = False) -> Handle:
    """Encode requests for a host, with large parts in its arena.

    Raises:
        OSError, ValueError: there is no memory for them.
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
    parts_of = [list(request.parts) for request in sent]
    for block in arena.write(large):
        index, place = map(int, block.name.split("/"))
        parts_of[index][place] = parts_of[index][place][0], block
    return Handle(
        tuple(
            msgspec.structs.replace(request, parts=tuple(parts))
            for request, parts in zip(sent, parts_of, strict=True)
        )
    )


def decode_order(order: Handle, arena: Arena, id: ModelId) -> list[InferRequest]:
    """Decode an order; large parts are views that are valid until the next order.

    Raises:
        ValueError, OSError: a part is not where it should be.
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


def encode_pieces(index: int, answer: Answer) -> list[HandlerPiece]:
    """Encode a piece of an answer, as several messages if it is too long for one."""
    body = _body(answer)
    first = HandlerResponse(body[:_LONGEST], dict(answer.parameters) or None, answer.again)
    rest = [HandlerResponse(body[at : at + _LONGEST]) for at in range(_LONGEST, len(body), _LONGEST)]
    return [HandlerPiece(index, response) for response in (first, *rest)]


def encode_result(answers: Sequence[Answer], seconds: float, arena: Arena) -> HandlerResult:
    """Encode the answers of a run."""
    large: dict[str, Array] = {}
    responses: list[HandlerResponse] = []
    for index, answer in enumerate(answers):
        body = _body(answer)
        if len(body) > INLINE:
            large[str(index)] = np.frombuffer(body, np.uint8)
        responses.append(HandlerResponse(body, dict(answer.parameters) or None, answer.again))
    if large:
        for block in arena.write(large):
            index = int(block.name)
            responses[index] = msgspec.structs.replace(responses[index], body=block)
    return HandlerResult(tuple(responses), seconds)


def _body(answer: Answer) -> bytes:
    array = answer.outputs.get(BODY)
    if array is None:
        return b""
    if array.dtype != np.uint8:
        raise ModelFailed(f"a handler's reply is UINT8, not {array.dtype}")
    return array.tobytes()


def large_parts(reply: HandlerResult) -> tuple[Block, ...]:
    """Return the parts of a reply that are in the arena."""
    return tuple([said.body for said in reply.said if isinstance(said.body, Block)])


def decode_answers(reply: HandlerResult, read: Mapping[str, Array]) -> list[Answer]:
    """Decode the answers of a reply, given its parts from the arena."""
    return [decode_answer(said, read) for said in reply.said]


def decode_answer(said: HandlerResponse, read: Mapping[str, Array]) -> Answer:
    """Decode one answer."""
    body = said.body
    array = read[body.name] if isinstance(body, Block) else np.frombuffer(body or b"", np.uint8)
    return Answer({BODY: array}, said.parameters or _NONE, said.again)
