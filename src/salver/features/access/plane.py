"""Data plane of a server with keys: checks a request's model, counts it, and sets the standing of its key."""

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any, Final, TypeVar

from salver.features.access.ending import while_valid
from salver.features.access.key_table import KeyGrant
from salver.kernel.engine.delivery import nothing
from salver.kernel.serving.callbacks import Tell
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.ports import Codec
from salver.transport.access_check import refusal_of
from salver.words.errors import QuotaUnsettled, SalverError
from salver.words.messages import Call, Charge, Grant

BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")
_GRPC: Final = "-grpc"


class CheckingPlane(DataPlane[BodyT, ReplyT]):
    """Data plane that refuses requests outside the caller's grant, and counts the others.

    Calls that the server's own models make have no grant.
    """

    def foresee(self, codec: Codec[BodyT, ReplyT], model: str, version: str, call: Call) -> None:
        """See :class:`DataPlane`."""
        grant = _entered(call)
        refusal = None if grant is None else grant.refusal(model)
        if refusal is not None and not isinstance(refusal, QuotaUnsettled):  # ``infer`` waits for those
            raise refusal
        super().foresee(codec, model, version, call)

    async def infer(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        sender: Hashable = None,
    ) -> ReplyT:
        """See :class:`DataPlane`."""
        grant = _entered(call)
        if grant is None:
            return await super().infer(codec, body, model, version, call, sender)
        if (refusal := await refusal_of(grant, model)) is not None:
            return codec.fault(refusal)
        call.charge = charge = grant.begin(model, call.standing.tenant)
        if charge is None:
            return await super().infer(codec, body, model, version, call, sender)
        try:
            charge.received = size_of(body)
            reply = await super().infer(codec, body, model, version, call, sender)
            charge.sent = size_of(reply)
            return reply
        finally:
            charge.leave()

    async def stream(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        write: Callable[[ReplyT], Awaitable[None]] | None = None,
    ) -> ReplyT | None:
        """See :class:`DataPlane`."""
        grant = _entered(call)
        # Streams over gRPC are ended by their transport, with their status.
        why = None if call.protocol.endswith(_GRPC) else _ending(call, model)
        if why is None or write is None:
            return await self._stream(grant, codec, body, model, version, call, write)
        answer = partial(self._stream, grant, codec, body, model, version, call)
        return await while_valid(answer, write, why, codec.fault)

    async def _stream(
        self,
        grant: Grant | None,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        write: Callable[[ReplyT], Awaitable[None]] | None,
    ) -> ReplyT | None:
        """Answer in pieces, and count the request; None = nothing has to be counted."""
        if grant is None:
            return await super().stream(codec, body, model, version, call, write)
        if (refusal := await refusal_of(grant, model)) is not None:
            return codec.fault(refusal)
        call.charge = charge = grant.begin(model, call.standing.tenant)
        if charge is None:
            return await super().stream(codec, body, model, version, call, write)
        counting = None if write is None else _counting(charge, write)
        try:
            charge.received = size_of(body)
            reply = await super().stream(codec, body, model, version, call, counting)
            charge.sent += size_of(reply)
            return reply
        finally:
            charge.leave()

    def post(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        tell: Tell[ReplyT],
        *,
        takes_pieces: bool = False,
    ) -> Callable[[], None] | None:
        """See :class:`DataPlane`."""
        grant = _entered(call)
        if takes_pieces and (why := _ending(call, model)) is not None:
            tell = partial(_tell_while_valid, tell, why, codec.fault)
        if grant is None:
            return super().post(codec, body, model, version, call, tell, takes_pieces=takes_pieces)
        if (refusal := grant.refusal(model)) is not None:
            if isinstance(refusal, QuotaUnsettled):
                return None
            tell(codec.fault(refusal), None)  # without a task: refusals must cost less than answers
            return nothing
        call.charge = charge = grant.begin(model, call.standing.tenant)
        if charge is None:
            return super().post(codec, body, model, version, call, tell, takes_pieces=takes_pieces)
        charge.received = size_of(body)
        counted = _Counted(charge, tell)
        give_up = super().post(codec, body, model, version, call, counted.tell, takes_pieces=takes_pieces)
        if give_up is None:
            charge.leave(has_begun=False)
            return None
        counted.begin(give_up)
        return counted.give_up


def size_of(message: Any) -> int:
    """Return the bytes of a request or reply of any transport.

    >>> size_of(b"12"), size_of([b"12", b"3"]), size_of(None)
    (2, 3, 0)
    """
    if isinstance(message, bytes | memoryview):
        return len(message)
    if isinstance(message, list | tuple):
        return sum(map(size_of, message))
    if getattr(message, "large", None) is not None:
        return len(message.large)
    return size_of(getattr(message, "body", None) or getattr(message, "message", None) or ())


def _counting(
    charge: Charge, write: Callable[[ReplyT], Awaitable[None]]
) -> Callable[[ReplyT], Awaitable[None]]:
    """Return a function that writes pieces of an answer and counts their bytes."""

    async def count(piece: ReplyT) -> None:
        charge.sent += size_of(piece)
        await write(piece)

    return count


def _entered(call: Call) -> Grant | None:
    """Set the standing of a call; return the grant that is left to be checked; None = there is none."""
    grant = call.grant
    if grant is None:
        return None
    call.standing = grant.standing
    return grant if grant.checks else None


def _ending(call: Call, model: str) -> Callable[[], SalverError | None] | None:
    """Return a function that tells why the caller's key is not valid any more; None = it always is."""
    return partial(call.grant.ended, model) if isinstance(call.grant, KeyGrant) else None


def _tell_while_valid(
    tell: Tell[Any],
    why: Callable[[], SalverError | None],
    fault: Callable[[SalverError], Any],
    reply: Any,
    write_all: Callable[[Any], Awaitable[None]] | None,
) -> None:
    """Pass an answer on; one in pieces ends when its caller's key does."""
    if write_all is None:
        tell(reply, None)
        return

    async def write(piece: Any) -> None:
        if (whole := await while_valid(write_all, piece, why, fault)) is not None:
            await piece(whole)

    tell(None, write)


class _Counted:
    """Request that is answered through a callback, and counts until then."""

    __slots__ = ("_charge", "_give_up", "_tell")

    def __init__(self, charge: Charge, tell: Tell[Any]) -> None:
        self._charge: Charge | None = charge
        self._tell = tell
        self._give_up: Callable[[], None] = nothing

    def begin(self, give_up: Callable[[], None]) -> None:
        """Keep the function that cancels the request, unless it has been answered already."""
        if self._charge is not None:
            self._give_up = give_up

    def tell(self, reply: Any, write_all: Callable[[Any], Awaitable[None]] | None) -> None:
        """Pass an answer on; one in pieces ends with the last of them."""
        charge = self._charge
        if charge is not None:
            charge.sent += size_of(reply)
        if write_all is None:
            self._end()
            self._tell(reply, None)
            return

        async def write(piece: Any) -> None:
            try:
                await write_all(piece if charge is None else _counting(charge, piece))
            finally:
                self._end()

        self._tell(reply, write)

    def give_up(self) -> None:
        """Cancel the request."""
        self._give_up()
        self._end()

    def _end(self) -> None:
        self._give_up = nothing  # breaks the reference cycle of each request
        if self._charge is not None:
            self._charge.leave()
            self._charge = None
