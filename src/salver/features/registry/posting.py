"""HTTP client for webhooks (:data:`salver.features.registry.deliveries.Post`).

One request on a thread, with a total time limit however slowly the other side answers; redirects are not
followed.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from salver.stores.sources.connecting import HttpCall

_SECONDS: Final = 10.0


async def post(url: str, headers: Mapping[str, str], body: bytes, seconds: float = _SECONDS) -> int:
    """Send a body and return the status of the answer.

    Raises:
        OSError: no answer within the time, or the address is not allowed.
        ValueError: it is not an HTTP URL.
    """
    line = HttpCall(seconds)

    def send() -> int:
        with line.ask(url, headers, body) as answer:
            return answer.status

    try:
        async with asyncio.timeout(seconds):
            return await asyncio.to_thread(send)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {seconds:g} s") from error
    finally:
        line.cut()
