"""Data plane of a server with keys: checks a request's model, counts it, and sets the standing of its key."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from salver.kernel.engine.delivery import nothing
from salver.kernel.serving.callbacks import Tell
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.ports import Codec
from salver.words.messages import Call, Charge, Grant

BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


class CheckingPlane(DataPlane[BodyT, ReplyT]):
    """Data plane that refuses requests outside the caller's grant, and counts the others.

    Calls that the server's own models make have no grant.
    """

    def foresee(self, codec: Codec[BodyT, ReplyT], model: str, version: str, call: Call) -> None:
        """See :class:`DataPlane`."""
        grant = _entered(call)
        if grant is not None and (refusal := grant.refusal(model)) is not None:
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
        if (refusal := grant.refusal(model)) is not None:
            return codec.fault(refusal)
        call.charge = charge = grant.begin(model, call.standing.tenant)
        try:
            return await super().infer(codec, body, model, version, call, sender)
        finally:
            if charge is not None:
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
        if grant is None:
            return await super().stream(codec, body, model, version, call, write)
        if (refusal := grant.refusal(model)) is not None:
            return codec.fault(refusal)
        call.charge = charge = grant.begin(model, call.standing.tenant)
        try:
            return await super().stream(codec, body, model, version, call, write)
        finally:
            if charge is not None:
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
        if grant is None:
            return super().post(codec, body, model, version, call, tell, takes_pieces=takes_pieces)
        if (refusal := grant.refusal(model)) is not None:
            tell(codec.fault(refusal), None)  # without a task: refusals must cost less than answers
            return nothing
        call.charge = charge = grant.begin(model, call.standing.tenant)
        if charge is None:
            return super().post(codec, body, model, version, call, tell, takes_pieces=takes_pieces)
        counted = _Counted(charge, tell)
        give_up = super().post(codec, body, model, version, call, counted.tell, takes_pieces=takes_pieces)
        if give_up is None:
            charge.leave(has_begun=False)
            return None
        counted.begin(give_up)
        return counted.give_up


def _entered(call: Call) -> Grant | None:
    """Set the standing of a call; return the grant that is left to be checked; None = there is none."""
    grant = call.grant
    if grant is None:
        return None
    call.standing = grant.standing
    return grant if grant.checks else None


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
        if write_all is None:
            self._end()
            self._tell(reply, None)
            return

        async def write(piece: Any) -> None:
            try:
                await write_all(piece)
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
