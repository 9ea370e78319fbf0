"""Cross-origin resource sharing (CORS), for pages of other origins.

As in the Fetch standard: a browser sends a preflight request with ``OPTIONS``, and shows an answer to a page
only if the answer names the page's origin. Other clients ignore these headers.
"""

from collections.abc import Awaitable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from salver.encoding.bodies import HttpReply
from salver.transport.doors import App, Receive, Scope, Send, say
from salver.transport.exchange import Prompt, PromptFinder, never
from salver.transport.http1_head import Head
from salver.words.errors import InvalidInput

_METHODS: Final = b"GET, HEAD, POST"
#: Response headers that a page may read besides those that are always readable.
_EXPOSED: Final = b"inference-header-content-length, retry-after, traceparent, x-request-id"
_MAX_AGE_S: Final = b"600"
_PREFLIGHT: Final = b"access-control-request-method"


def check_origin(origin: str) -> str:
    """Return an origin in lower case, or ``*`` for every origin.

    Raises:
        InvalidInput: the text is not an origin.

    >>> check_origin("https://app.example.org:8443")
    'https://app.example.org:8443'
    """
    parts = urlsplit(origin)
    is_origin = parts.scheme in ("http", "https") and f"{parts.scheme}://{parts.netloc}" == origin
    if origin != "*" and not (is_origin and parts.netloc and origin.isascii() and "@" not in origin):
        raise InvalidInput(
            f"--cors-origin {origin!r} is not an origin", fix="Write https://app.example.org, or *."
        )
    return origin.lower()


class Cors:
    """Application with CORS headers for pages of some origins.

    Args:
        origins: Origins, as :func:`check_origin` returns them.
    """

    def __init__(self, app: App, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)
        self._is_open = b"*" in self._origins
        self._find: PromptFinder = getattr(app, "find_prompt", lambda head: never)

    def __repr__(self) -> str:
        return f"<Cors for {b', '.join(sorted(self._origins)).decode()}>"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve an ASGI scope."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None:
            return self._app(scope, receive, send)
        is_welcome = self._is_open or origin.lower() in self._origins
        if scope["method"] == "OPTIONS" and _PREFLIGHT in headers:
            return say(send, self._preflight(origin, headers) if is_welcome else _REFUSED)
        if not is_welcome:
            return self._app(scope, receive, send)
        more = [*self._named(origin), (b"access-control-expose-headers", _EXPOSED)]

        def answer(message: dict[str, Any]) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}  # TensorFlow Serving sets its own (TF-R24)
                own = [header for header in more if header[0] not in given]
                message = {**message, "headers": [*message["headers"], *own]}
            return send(message)

        return self._app(scope, receive, answer)

    def find_prompt(self, head: Head) -> Prompt | None:
        """See :data:`~salver.transport.exchange.PromptFinder`; only pages send an origin."""
        return never if any(name == b"origin" for name, _ in head.headers) else self._find(head)

    def _preflight(self, origin: bytes, headers: dict[bytes, bytes]) -> HttpReply:
        allowed = [
            *self._named(origin),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _MAX_AGE_S),
        ]
        if wanted := headers.get(b"access-control-request-headers"):
            allowed.append((b"access-control-allow-headers", wanted))
        return HttpReply(204, b"", tuple(allowed))

    def _named(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        if self._is_open:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]


_REFUSED: Final = HttpReply(403, b'{"error":"pages of this origin may not ask here; see --cors-origin"}')
