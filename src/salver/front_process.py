"""Program of a front process: ``python -m salver.front_process DESCRIPTOR``.

The descriptor is that of a socket to the home process, whose first frame is the configuration. SIGTERM has
the front answer what has come, and end; without its home process it ends at once.
"""

import asyncio
import pickle
import signal
import socket
import sys

from salver.app import Server
from salver.configuration import ServeConfig
from salver.feature import discover, load
from salver.machine import keep_freed_memory, keep_one_heap, tune_interpreter
from salver.words.errors import NotReady, SalverError

#: Features whose requests copies can answer.
_FEATURES = ("fronts", "oip")


def main() -> None:
    """Serve until the home process says so, or ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # for SIGTERM, until the loop runs
        signal.signal(number, signal.SIG_IGN)
    keep_one_heap()
    config = _read(int(sys.argv[1]))
    try:
        _run(config)
    except SalverError as error:
        sys.exit(f"a front does not start: {error}")


def _run(config: ServeConfig) -> None:
    try:
        from uvloop import new_event_loop
    except ImportError:  # not made for Windows
        asyncio.run(_serve(config))
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(config))


def _read(descriptor: int) -> ServeConfig:
    """Read the first frame, and nothing behind it."""
    with socket.socket(fileno=descriptor) as sock:
        size = int.from_bytes(_exactly(sock, 4), sys.byteorder)
        config: ServeConfig = pickle.loads(_exactly(sock, size))
        sock.detach()
    return config


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data


async def _serve(config: ServeConfig) -> None:
    ends = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ends.set)
    features = [each for each in discover() if each.name in _FEATURES]
    for feature in features:
        load(feature.build)  # without one, it would answer by itself, and knows no model
    if len(features) < len(_FEATURES):
        raise NotReady(f"of the features {', '.join(_FEATURES)} one is missing")
    server = Server(config, features=features)
    await server.start()
    tune_interpreter()
    keep_freed_memory()
    await ends.wait()
    await server.stop()


if __name__ == "__main__":
    main()
