"""How is a body sent to a URL whose owner asked for it (:data:`salver.registry.ports.Post`)?

On a thread, once, and within a time; nobody is followed to where an answer leads.
"""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import IO, Any, Final

_SECONDS: Final = 10.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


async def post(url: str, headers: Mapping[str, str], body: bytes) -> int:
    """Send it; the status of the answer.

    Raises:
        OSError: nobody answered.
        ValueError: it is no such URL.
    """
    return await asyncio.to_thread(_post, url, headers, body)


def _post(url: str, headers: Mapping[str, str], body: bytes) -> int:
    if not url.startswith(("http://", "https://")):
        raise ValueError("no URL of HTTP")
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_SECONDS) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
