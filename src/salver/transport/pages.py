"""Static pages for browsers.

Small files from memory, with types, entity tags, and a policy that restricts a page to scripts and requests
of this origin (Content Security Policy, level 3).
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from salver.encoding.bodies import HttpReply
from salver.transport.doors import Receive, Scope, Send, say

_POLICY: Final = (
    b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"  # text cannot become markup or a script
)
_ALWAYS: Final = (
    (b"cache-control", b"no-cache"),  # browsers cache them and revalidate each time
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_PLAIN: Final = (b"content-type", b"text/plain; charset=utf-8")


class File(Protocol):
    """File of a page."""

    @property
    def content_type(self) -> str:
        """Content type with charset."""
        ...

    @property
    def body(self) -> bytes:
        """Content of the file."""
        ...


class Pages:
    """ASGI application that serves files.

    Args:
        root: Path prefix, without a trailing slash.
        read: Returns the files by path below the root; called at the first request.
    """

    def __init__(self, root: str, read: Callable[[], Mapping[str, File]]) -> None:
        self.root = root
        self._read = read
        self._files: dict[str, tuple[File, bytes]] = {}

    def __repr__(self) -> str:
        return f"<Pages at {self.root}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI scope whose path begins with the root."""
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
    """Application below a path prefix of its own."""

    @property
    def root(self) -> str:
        """Path prefix, without a trailing slash."""
        ...

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve an ASGI scope."""
        ...


class Sites:
    """Several applications, each below its own path prefix."""

    def __init__(self, *sites: Site) -> None:
        self._sites = {site.root: site for site in sites}
        #: First path segments that belong to them.
        self.roots = frozenset(root.strip("/") for root in self._sites)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve an ASGI scope whose path begins with one of the roots."""
        return self._sites[f"/{scope['path'].split('/', 2)[1]}"](scope, receive, send)


def _tag(file: File) -> bytes:
    return b'"%s"' % hashlib.blake2b(file.body, digest_size=12).hexdigest().encode()
