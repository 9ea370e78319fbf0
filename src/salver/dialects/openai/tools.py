"""Calls of tools in a model's text.

Models write calls as text. ``llama3``: a JSON object, or several parted by ``;``, perhaps behind
``<|python_tag|>``; ``mistral``: a JSON list of them, perhaps behind ``[TOOL_CALLS]``. A call has a ``name``
and ``arguments`` or ``parameters``. :class:`ToolCalls` reads such text as it comes, each character once,
and knows no request.

Pure.
"""

import json
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from salver.encoding.json_text import loads
from salver.words.errors import InvalidInput

Parser = Literal["", "llama3", "mistral"]

#: Parser -> the mark before calls, and what calls begin with where a model leaves the mark out.
_BEGINNINGS: Final = {"llama3": ("<|python_tag|>", "{"), "mistral": ("[TOOL_CALLS]", "[")}
_BETWEEN: Final = frozenset(" \t\r\n;,[]")


class ToolCall(NamedTuple):
    """One call; ``arguments`` are JSON text."""

    name: str
    arguments: str


class ToolCalls:
    """The calls in one answer, as its text comes.

    Args:
        parser: How the model writes calls.
        most: Bytes of text that are kept until they are a call; what is longer is text.

    >>> calls = ToolCalls("llama3", 1000)
    >>> calls.read('{"name": "add", "argu'), calls.read('ments": {"a": 1}}')
    (('', []), ('', [ToolCall(name='add', arguments='{"a": 1}')]))
    """

    def __init__(self, parser: Literal["llama3", "mistral"], most: int) -> None:
        self._mark, self._bare = _BEGINNINGS[parser]
        self._most = most
        self._state: Literal["begin", "calls", "text"] = "begin"
        self._kept = ""  # not given away as yet
        self._size = 0  # of it, in bytes
        self._seen = 0  # characters of it that have been looked at
        self._begin = 0  # of the object that is read
        self._depth = 0
        self._is_quoted = False
        self._is_escaped = False
        self._count = 0

    def read(self, text: str) -> tuple[str, list[ToolCall]]:
        """Text that is certain to be no call, and calls that have ended in this piece."""
        if self._state == "text":
            return text, []
        self._kept += text
        self._size += len(text.encode("utf-8", "replace"))
        if self._state == "begin":
            self._look()
        if self._size > self._most:
            self._state = "text"
        calls = self._scan() if self._state == "calls" else []
        return (self.rest() if self._state == "text" else ""), calls

    def rest(self) -> str:
        """What is left when the answer has ended: text that looked like a call, and was none."""
        left, self._kept = self._kept, ""
        is_nothing = self._state == "calls" and self._count and _BETWEEN.issuperset(left)
        self._state = "text"
        return "" if is_nothing else left

    def _look(self) -> None:
        """Is this the beginning of calls, or of text? The state stays while nobody can say."""
        text = self._kept.lstrip()
        if text.startswith(self._mark):
            self._seen = len(self._kept) - len(text) + len(self._mark)
            self._state = "calls"
        elif not self._mark.startswith(text):
            self._state = "calls" if text.startswith(self._bare) else "text"

    def _scan(self) -> list[ToolCall]:
        """Calls that have ended; the state is ``text`` when something else comes."""
        calls: list[ToolCall] = []
        while self._seen < len(self._kept) and self._state == "calls":
            character = self._kept[self._seen]
            self._seen += 1
            if self._is_quoted:
                self._is_quoted = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            elif character == '"' and self._depth:
                self._is_quoted = True
            elif character == "{":
                self._begin = self._begin if self._depth else self._seen - 1
                self._depth += 1
            elif character == "}" and self._depth:
                self._depth -= 1
                if not self._depth:
                    self._end(calls)
            elif not self._depth and character not in _BETWEEN:
                self._state = "text"
        return calls

    def _end(self, calls: list[ToolCall]) -> None:
        """An object has ended: what came before it is no longer needed if it is a call."""
        call = _call(self._kept[self._begin : self._seen])
        if call is None:
            self._state = "text"
            return
        calls.append(call)
        self._count += 1
        self._kept = self._kept[self._seen :]
        self._size = len(self._kept.encode("utf-8", "replace"))
        self._seen = 0


def read_whole(text: str, parser: Literal["llama3", "mistral"], most: int) -> tuple[str, list[ToolCall]]:
    """The text and the calls of a whole answer, which is text as a whole where a part of it is no call.

    >>> read_whole('[TOOL_CALLS][{"name": "now", "arguments": {}}]', "mistral", 1000)
    ('', [ToolCall(name='now', arguments='{}')])
    >>> read_whole('{"name": "now"}', "llama3", 1000)
    ('{"name": "now"}', [])
    """
    reader = ToolCalls(parser, most)
    plain, calls = reader.read(text)
    return ("", calls) if calls and not (plain + reader.rest()).strip() else (text, [])


def call_id(parser: Parser, new_id: Callable[[], str]) -> str:
    """An id for a call; Mistral's templates take nine letters or digits, and nothing else."""
    new = new_id()
    return new[-9:] if parser == "mistral" else f"call_{new}"


def _call(text: str) -> ToolCall | None:
    try:
        found = loads(text.encode("utf-8", "replace"))
    except InvalidInput:
        return None
    if type(found) is not dict or type(found.get("name")) is not str:
        return None
    arguments = found.get("arguments", found.get("parameters"))
    if arguments is None:
        return None
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(found["name"], arguments)
