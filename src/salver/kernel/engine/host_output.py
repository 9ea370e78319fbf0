"""Output of a host process: its lines go to the log, as far as the model's limit allows."""

import asyncio
import logging
import os
import re
from collections import deque

from salver.kernel.engine.output_limit import LONGEST_LINE, OutputLimit
from salver.words.messages import ModelId

_log = logging.getLogger("salver.engine.host")
_REST_S = 0.01  # pause between two reads of a model that writes too much
_TELL_S = 1.0
_MOST_LINES = 2000  # lines examined per read
_LAST_LINES = 12  # lines included in the error of a model that could not be loaded
#: Messages that TensorFlow's libraries print on import regardless of the log level.
_CHATTER = re.compile(r"All log messages before absl::InitializeLog\(\)|oneDNN custom operations are on\.")


class HostOutput:
    """Reader of what a host process writes.

    Args:
        fd: Closed by its owner.
        limit: Shared by all processes of the version.

    Attributes:
        last_lines: The last lines, including dropped ones.
    """

    def __init__(self, fd: int, limit: OutputLimit, id: ModelId) -> None:
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._fd = fd
        self._limit = limit
        self._id = id
        self._line = b""  # the line that is not finished yet
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self.read)

    def read(self) -> None:
        """Log the lines that are there."""
        try:
            data = os.read(self._fd, 1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self._loop.remove_reader(self._fd)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > LONGEST_LINE:
            lines.append(self._line)
            self._line = b""
        left = lines[_MOST_LINES:]  # lines of one read; a line may be empty
        for index, line in enumerate(lines[:_MOST_LINES]):
            if not self._say(line):  # arrived together with a dropped line
                left = lines[index + 1 :]
                break
        else:
            if not left:
                return
        self._drop(len(left))
        self.last_lines.extend(map(_text, left[-_LAST_LINES:]))
        self._loop.remove_reader(self._fd)  # pause, or the loop would do nothing else
        self._loop.call_later(_REST_S, self._read_again)

    def close(self) -> None:
        """Log the unfinished line, and read no more."""
        self._say(self._line)
        self._is_closed = True
        self._loop.remove_reader(self._fd)

    def log(self, level: int, text: str) -> bool:
        """Log a line within the limit; dropped lines are reported a second later.

        Returns:
            False = it was dropped.
        """
        if self._limit.takes(len(text), self._loop.time()):
            _log.log(level, "[%s] %s", self._id, text)
            return True
        self._drop(1)
        return False

    def _read_again(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._fd, self.read)

    def _say(self, line: bytes) -> bool:
        text = _text(line)
        if not text:
            return True
        self.last_lines.append(text)
        return self.log(logging.DEBUG if _CHATTER.search(text) else logging.INFO, text)

    def _drop(self, lines: int) -> None:
        if not self._limit.dropped:
            self._loop.call_later(_TELL_S, self._tell_dropped)
        self._limit.dropped += lines

    def _tell_dropped(self) -> None:
        if dropped := self._limit.told():
            _log.warning(
                "[%s] %d lines dropped: the model exceeds the limit on log output", self._id, dropped
            )


def _text(line: bytes) -> str:
    text = line[:LONGEST_LINE].decode(errors="backslashreplace").rstrip()
    more = len(line) - LONGEST_LINE
    if more > 0:
        return f"{text} … ({more} bytes more)"
    return text
