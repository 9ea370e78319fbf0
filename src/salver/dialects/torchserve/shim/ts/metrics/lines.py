"""Lines of this process's metrics that the server has not taken yet."""

import time
from collections import deque
from collections.abc import Mapping
from socket import gethostname
from typing import Any

_MOST = 10_000  # lines between two runs; the oldest are dropped
HOST = gethostname()


class Lines:
    """Lines as TorchServe's workers print them, without their ``[METRICS]``. Thread-safe."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST)

    def __repr__(self) -> str:
        return f"<Lines, {len(self._lines)}>"

    def add(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line.replace("\n", " "))

    def take(self) -> tuple[str, ...]:
        """Remove and return all lines."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return tuple(lines)


#: Lines of this process.
LINES = Lines()


def whose(ids: Mapping[int, str] | str | None, idx: Any) -> str | None:
    """Return the id of the request that a change belongs to, or of all requests if it names none.

    >>> whose({0: "a", 1: "b"}, 1), whose({0: "a", 1: "b"}, None), whose("a", 1)
    ('b', 'a,b', 'a')
    """
    if isinstance(ids, Mapping):
        return ids[idx] if idx in ids else ",".join(ids.values())
    return ids


def line(metric: str, value: object, dimensions: str, kind: str, request: object) -> str:
    """Return the line of a change.

    Args:
        metric: Name and unit.
        kind: Kind of the metric; empty = omitted.
        request: Id, or ids with commas; empty = omitted.
    """
    told = f"#type:{kind}|" if kind else ""
    end = f",{request}" if request else ""
    return f"{metric}:{value}|#{dimensions}|{told}#hostname:{HOST},{int(time.time())}{end}"
