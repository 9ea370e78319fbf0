"""Data plane of a server with keys: it checks the model of a request whose body names it."""

from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from salver.kernel.serving.callbacks import Tell
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.ports import Codec
from salver.words.errors import Forbidden
from salver.words.messages import Call

BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


class CheckingPlane(DataPlane[BodyT, ReplyT]):
    """Data plane that refuses requests for models outside the caller's grant.

    Calls that the server's own models make have no grant, and are not checked.
    """

    def foresee(self, codec: Codec[BodyT, ReplyT], model: str, version: str, call: Call) -> None:
        """See :class:`DataPlane`."""
        if _refusal(call, model) is None:  # else ``infer`` tells it
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
        if (refusal := _refusal(call, model)) is not None:
            return codec.fault(refusal)
        return await super().infer(codec, body, model, version, call, sender)

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
        if (refusal := _refusal(call, model)) is not None:
            return codec.fault(refusal)
        return await super().stream(codec, body, model, version, call, write)

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
        if _refusal(call, model) is not None:
            return None  # ``infer`` or ``stream`` tells it
        return super().post(codec, body, model, version, call, tell, takes_pieces=takes_pieces)


def _refusal(call: Call, model: str) -> Forbidden | None:
    if call.grant is not None:
        try:
            call.grant.check(model)
        except Forbidden as error:
            return error
    return None
