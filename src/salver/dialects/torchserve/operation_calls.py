"""What do TorchServe's operations over REST get, and give?"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from salver.dialects.torchserve.bodies import form, is_large
from salver.dialects.torchserve.json_layout import TorchServeReply
from salver.dialects.torchserve.paths import PathMatch
from salver.words.handlers import Form


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request, read whole.

    Attributes:
        query: Fields in their order; names may come again, and the first counts.
        headers: With names in lower case.
        spelled: The same as they were sent, for handlers.
    """

    asked: PathMatch
    verb: str
    body: bytes
    query: tuple[tuple[str, str], ...]
    headers: Mapping[bytes, bytes]
    spelled: Sequence[tuple[bytes, bytes]] = ()

    @property
    def content_type(self) -> str:
        """Empty = there is none."""
        return self.headers.get(b"content-type", b"").decode("latin-1")

    @property
    def authorization(self) -> str:
        """Empty = there is none."""
        return self.headers.get(b"authorization", b"").decode("latin-1")

    @property
    def fields(self) -> dict[str, str]:
        """The query's fields by name."""
        return dict(reversed(self.query))


async def form_of(request: Request, headers: Mapping[str, str]) -> Form:
    """What a handler is asked; others have their turns while a large form is read.

    Raises:
        InvalidInput, NamedFault: as :func:`salver.dialects.torchserve.bodies.form`.
    """
    body, kind = request.body, request.content_type
    if is_large(body, kind):
        return await asyncio.to_thread(form, body, kind, headers)
    return form(body, kind, headers)


Method = Callable[[Request], Awaitable[TorchServeReply]]
