"""How is a body sent to a URL whose owner asked for it (:data:`salver.features.registry.ports.Post`)?

On a thread, once, and within a time, however slowly the other side answers; nobody is followed to where an
answer leads.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from salver.stores.sources.connecting import Line

_SECONDS: Final = 10.0


async def post(url: str, headers: Mapping[str, str], body: bytes, seconds: float = _SECONDS) -> int:
    """Send it; the status of the answer.

    Raises:
        OSError: nobody answered within the time, or nobody should be asked there.
        ValueError: it is no URL of HTTP.
    """
    line = Line(seconds)

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
