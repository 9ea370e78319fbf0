"""Data plane of a server with keys: checks a request's model, counts it, and sets the standing of its key."""

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any, Final, TypeVar

from salver.encoding.bodies import HttpBody
from salver.features.access.ending import while_valid
from salver.features.access.key_table import KeyGrant
from salver.features.access.run_plan import RunPlan
from salver.features.access.run_usage import RunUsage, size_of
from salver.kernel.engine.delivery import nothing
from salver.kernel.serving.callbacks import Tell
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.ports import Codec
from salver.transport.access_check import begun
from salver.words.errors import QuotaUnsettled, SalverError
from salver.words.messages import Call, Charge

BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")
_GRPC: Final = "-grpc"


class CheckingPlane(DataPlane[BodyT, ReplyT]):
    """Data plane that refuses requests outside the caller's grant, and counts the others.

    Calls that the server's own models make have no grant.
    """

    def foresee(self, codec: Codec[BodyT, ReplyT], model: str, version: str, call: Call) -> None:
        """See :class:`DataPlane`."""
        grant = call.grant
        refusal = None
        if grant is not None:
            call.standing = grant.standing
            refusal = grant.refusal(model)
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
        charge: Any = await _charge(call, model)  # a RunUsage, if it is one
        if charge is None:
            return await super().infer(codec, body, model, version, call, sender)
        if isinstance(charge, SalverError):
            return codec.fault(charge)
        try:
            call.received = size_of(body)
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
        # Streams over gRPC are ended by their transport, with their status.
        why = None if call.protocol.endswith(_GRPC) else _ending(call, model)
        if why is None or write is None:
            return await self._stream(codec, body, model, version, call, write)
        answer = partial(self._stream, codec, body, model, version, call)
        return await while_valid(answer, write, why, codec.fault)

    async def _stream(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        write: Callable[[ReplyT], Awaitable[None]] | None,
    ) -> ReplyT | None:
        """Answer in pieces, and count the request."""
        charge: Any = await _charge(call, model)
        if charge is None:
            return await super().stream(codec, body, model, version, call, write)
        if isinstance(charge, SalverError):
            return codec.fault(charge)
        counting = None if write is None else charge.counting(write)
        try:
            call.received = size_of(body)
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
        takes_pieces: bool = False,
    ) -> Callable[[], None] | None:
        """See :class:`DataPlane`."""
        grant: Any = call.grant  # a KeyGrant
        if grant is None:
            return super().post(codec, body, model, version, call, tell, takes_pieces)
        if takes_pieces:
            return self._post_pieces(codec, body, model, version, call, tell, grant)
        call.standing = grant.standing
        charge = grant.enter(model)
        # Written for speed, as it is the path of most requests (benchmarks/prices.py).
        if type(charge) is not RunPlan:
            return self._post_charged(codec, body, model, version, call, tell, charge)
        sent: Any = body
        call.received = len(sent.body) if type(body) is HttpBody and sent.large is None else size_of(body)
        call.charge = charge
        give_up = DataPlane.post(self, codec, body, model, version, call, tell)
        if give_up is None:
            charge.leave(has_begun=False)
        return give_up

    def _post_pieces(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        tell: Tell[ReplyT],
        grant: KeyGrant,
    ) -> Callable[[], None] | None:
        """Answer, perhaps in pieces as long as the caller's key is valid."""
        if grant.is_over():
            return None
        call.standing = grant.standing
        tell = partial(_tell_while_valid, tell, partial(grant.ended, model), codec.fault)
        charge = grant.begin(model)
        if charge is None:
            return super().post(codec, body, model, version, call, tell, True)
        return self._post_charged(codec, body, model, version, call, tell, charge, takes_pieces=True)

    def _post_charged(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        tell: Tell[ReplyT],
        charge: RunUsage | SalverError | None,
        *,
        takes_pieces: bool = False,
    ) -> Callable[[], None] | None:
        """Answer a request that has a charge of its own, or is refused."""
        if isinstance(charge, SalverError) and not isinstance(charge, QuotaUnsettled):
            tell(codec.fault(charge), None)  # without a task: refusals must cost less than answers
            return nothing
        if not isinstance(charge, RunUsage):
            return None
        call.received, call.charge = size_of(body), charge
        charge.reply_to = tell
        give_up = super().post(codec, body, model, version, call, charge.tell, takes_pieces)
        if give_up is None:
            charge.leave(has_begun=False)
            return None
        charge.keep(give_up)
        return charge.give_up


async def _charge(call: Call, model: str) -> Charge | SalverError | None:
    """Set the standing of a call and count it; return its charge, or why it is refused; None = neither."""
    grant = call.grant
    if grant is None:
        return None
    call.standing = grant.standing
    found = await begun(grant, model)
    call.charge = None if isinstance(found, SalverError) else found
    return found


def _ending(call: Call, model: str) -> Callable[[], SalverError | None] | None:
    """Return a function that tells why the caller's key is not valid any more; None = it always is."""
    if isinstance(call.grant, KeyGrant):
        return partial(call.grant.ended, model)
    return None


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
