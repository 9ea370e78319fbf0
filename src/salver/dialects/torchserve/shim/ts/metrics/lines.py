"""What have this process's metrics written, that the server has not taken yet?"""

import time
from collections import deque
from collections.abc import Mapping
from socket import gethostname
from typing import Any

_MOST = 10_000  # between two runs; then the oldest are forgotten
HOST = gethostname()


class Lines:
    """Lines as TorchServe's workers print them, without their ``[METRICS]``; any thread may add some."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST)

    def __repr__(self) -> str:
        return f"<Lines, {len(self._lines)}>"

    def add(self, line: str) -> None:
        """One more."""
        self._lines.append(line.replace("\n", " "))

    def take(self) -> tuple[str, ...]:
        """All, which are then gone."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return tuple(lines)


#: Of this process.
LINES = Lines()


def whose(ids: Mapping[int, str] | str | None, idx: Any) -> str | None:
    """Of which request a change is, by its place in the run; of all of them where it names none.

    >>> whose({0: "a", 1: "b"}, 1), whose({0: "a", 1: "b"}, None), whose("a", 1)
    ('b', 'a,b', 'a')
    """
    if isinstance(ids, Mapping):
        return ids[idx] if idx in ids else ",".join(ids.values())
    return ids


def line(metric: str, value: object, dimensions: str, kind: str, request: object) -> str:
    """One of them.

    Args:
        metric: Name and unit.
        kind: Of the metric; empty = it is not told.
        request: Id, or ids with commas; nothing = not told.
    """
    told = f"#type:{kind}|" if kind else ""
    end = f",{request}" if request else ""
    return f"{metric}:{value}|#{dimensions}|{told}#hostname:{HOST},{int(time.time())}{end}"
