"""Static pages for browsers.

Small files from memory, with their types, entity tags, and a policy that lets a page run and ask nothing
but what comes from here (Content Security Policy, level 3). It knows no page.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from salver.encoding.bodies import HttpReply
from salver.transport.doors import Receive, Scope, Send, say

_POLICY: Final = (
    b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"  # no text becomes markup or a script
)
_ALWAYS: Final = (
    (b"cache-control", b"no-cache"),  # a browser keeps them, and asks each time whether they are the newest
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_PLAIN: Final = (b"content-type", b"text/plain; charset=utf-8")


class File(Protocol):
    """What a page consists of."""

    @property
    def content_type(self) -> str:
        """With its charset."""
        ...

    @property
    def body(self) -> bytes:
        """Whole."""
        ...


class Pages:
    """An ASGI application of files.

    Args:
        root: Path above them, without a slash at its end.
        read: Gives them by their paths below the root; called at the first request.
    """

    def __init__(self, root: str, read: Callable[[], Mapping[str, File]]) -> None:
        self.root = root
        self._read = read
        self._files: dict[str, tuple[File, bytes]] = {}

    def __repr__(self) -> str:
        return f"<Pages at {self.root}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point, for paths that begin with the root."""
        reply = self._reply(scope["method"], scope["path"], dict(scope["headers"]))
        await say(send, HttpReply(reply.status, reply.body, (*reply.headers, *_ALWAYS)), scope["method"])

    def _reply(self, verb: str, path: str, headers: Mapping[bytes, bytes]) -> HttpReply:
        if verb not in ("GET", "HEAD"):
            return HttpReply(405, b"Pages are only read.\n", (_PLAIN, (b"allow", b"GET, HEAD")))
        if path == self.root:
            return HttpReply(308, b"", ((b"location", f"{self.root}/".encode()),))
        if not self._files:
            self._files = {name: (file, _tag(file)) for name, file in self._read().items()}
        found = self._files.get(path.removeprefix(f"{self.root}/") or "index.html")
        if found is None:
            return HttpReply(404, f"There is no such page; see {self.root}/\n".encode(), (_PLAIN,))
        file, tag = found
        if tag in (
            part.strip().removeprefix(b"W/") for part in headers.get(b"if-none-match", b"").split(b",")
        ):
            return HttpReply(304, b"", ((b"etag", tag),))
        return HttpReply(200, file.body, ((b"content-type", file.content_type.encode()), (b"etag", tag)))


class Site(Protocol):
    """An application below a root of its own."""

    @property
    def root(self) -> str:
        """Path above it, without a slash at its end."""
        ...

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI entry point."""
        ...


class Sites:
    """Several applications of files, each below its own root."""

    def __init__(self, *sites: Site) -> None:
        self._sites = {site.root: site for site in sites}
        #: First segments of the paths that belong to it.
        self.roots = frozenset(root.strip("/") for root in self._sites)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI entry point, for paths that begin with one of the roots."""
        return self._sites[f"/{scope['path'].split('/', 2)[1]}"](scope, receive, send)


def _tag(file: File) -> bytes:
    return b'"%s"' % hashlib.blake2b(file.body, digest_size=12).hexdigest().encode()
