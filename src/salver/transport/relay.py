"""Hand-over of a connection to another front of this process.

Bytes are passed both ways, as fast as the slower side reads. It knows no protocol.
"""

import asyncio


class Relay(asyncio.Protocol):
    """The caller's side of a connection that goes on at a UNIX socket.

    Args:
        transport: To the caller.
        begun: What has come of it.
        path: Of the socket.
    """

    def __init__(self, transport: asyncio.Transport, begun: bytes, path: str) -> None:
        self._caller = transport
        self._held = [begun]
        self._far: asyncio.Transport | None = None
        self._is_over = False
        transport.pause_reading()  # until there is somebody to pass it to
        self._connecting = asyncio.get_running_loop().create_task(self._connect(path))

    async def _connect(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            far, _ = await loop.create_unix_connection(lambda: _Far(self._caller), path)
        except OSError:
            self._caller.abort()
            return
        self._far = far
        self._far.writelines(self._held)
        self._held.clear()
        if self._is_over:
            self._far.close()
        else:
            self._caller.resume_reading()

    def data_received(self, data: bytes) -> None:
        """From the caller."""
        if self._far is None:
            self._held.append(data)
        else:
            self._far.write(data)

    def pause_writing(self) -> None:
        """The caller reads too slowly."""
        if self._far is not None:
            self._far.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        if self._far is not None:
            self._far.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._is_over = True
        if self._far is not None:
            self._far.close()


class _Far(asyncio.Protocol):
    """The other side."""

    def __init__(self, caller: asyncio.Transport) -> None:
        self._caller = caller

    def data_received(self, data: bytes) -> None:
        self._caller.write(data)

    def pause_writing(self) -> None:
        self._caller.pause_reading()

    def resume_writing(self) -> None:
        self._caller.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._caller.close()
