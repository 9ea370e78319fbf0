"""Parsers of the tool calls in a model's text.

``llama3``: JSON objects separated by ``;``, perhaps after ``<|python_tag|>``; ``mistral``: a JSON list of
them, perhaps after ``[TOOL_CALLS]``. A call has a ``name`` and ``arguments`` or ``parameters``. Pure.
"""

import json
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from salver.encoding.json_text import loads
from salver.words.errors import InvalidInput

Parser = Literal["", "llama3", "mistral"]

#: Parser -> the mark before calls, and how calls begin without the mark.
_BEGINNINGS: Final = {"llama3": ("<|python_tag|>", "{"), "mistral": ("[TOOL_CALLS]", "[")}
_BETWEEN: Final = frozenset(" \t\r\n;,[]")


class ToolCall(NamedTuple):
    """One call; ``arguments`` are JSON text."""

    name: str
    arguments: str


class ToolCalls:
    """Incremental parser of the calls in one answer; reads each character once.

    Args:
        parser: How the model writes calls.
        most: Limit of the text held back as a possible call, in bytes; longer text is plain.

    >>> calls = ToolCalls("llama3", 1000)
    >>> calls.read('{"name": "add", "argu'), calls.read('ments": {"a": 1}}')
    (('', []), ('', [ToolCall(name='add', arguments='{"a": 1}')]))
    """

    def __init__(self, parser: Literal["llama3", "mistral"], most: int) -> None:
        self._mark, self._bare = _BEGINNINGS[parser]
        self._most = most
        self._state: Literal["begin", "calls", "text"] = "begin"
        self._held = ""  # text held back: it may be a call
        self._size = 0  # bytes held back
        self._seen = 0  # characters held back that have been scanned
        self._begin = 0  # start of the current object
        self._depth = 0
        self._is_quoted = False
        self._is_escaped = False
        self._count = 0

    def read(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return the plain text and the complete calls after this piece."""
        if self._state == "text":
            return text, []
        self._held += text
        self._size += len(text.encode("utf-8", "replace"))
        if self._state == "begin":
            self._recognise()
        if self._size > self._most:
            self._state = "text"
        calls: list[ToolCall] = []
        if self._state == "calls":
            calls = self._scan()
        return (self.rest() if self._state == "text" else ""), calls

    def rest(self) -> str:
        """Return the text held back that turned out to be no call, at the end of an answer."""
        left, self._held = self._held, ""
        is_separator = self._state == "calls" and self._count and _BETWEEN.issuperset(left)
        self._state = "text"
        return "" if is_separator else left

    def _recognise(self) -> None:
        """Decide whether calls or text begin; keep the state while both are possible."""
        text = self._held.lstrip()
        if text.startswith(self._mark):
            self._seen = len(self._held) - len(text) + len(self._mark)
            self._state = "calls"
        elif not self._mark.startswith(text):
            self._state = "calls" if text.startswith(self._bare) else "text"

    def _scan(self) -> list[ToolCall]:
        """Return the complete calls; set the state to ``text`` if something else follows."""
        calls: list[ToolCall] = []
        while self._seen < len(self._held) and self._state == "calls":
            character = self._held[self._seen]
            self._seen += 1
            if self._is_quoted:
                self._is_quoted = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            elif character == '"' and self._depth:
                self._is_quoted = True
            elif character == "{":
                if not self._depth:
                    self._begin = self._seen - 1
                self._depth += 1
            elif character == "}" and self._depth:
                self._depth -= 1
                if not self._depth:
                    self._end(calls)
            elif not self._depth and character not in _BETWEEN:
                self._state = "text"
        return calls

    def _end(self, calls: list[ToolCall]) -> None:
        """Parse the object that has ended; drop the text up to its end if it is a call."""
        call = _call(self._held[self._begin : self._seen])
        if call is None:
            self._state = "text"
            return
        calls.append(call)
        self._count += 1
        self._held = self._held[self._seen :]
        self._size = len(self._held.encode("utf-8", "replace"))
        self._seen = 0


def read_whole(text: str, parser: Literal["llama3", "mistral"], most: int) -> tuple[str, list[ToolCall]]:
    """Return text and calls of a whole answer, which is all text if any part of it is no call.

    >>> read_whole('[TOOL_CALLS][{"name": "now", "arguments": {}}]', "mistral", 1000)
    ('', [ToolCall(name='now', arguments='{}')])
    >>> read_whole('{"name": "now"}', "llama3", 1000)
    ('{"name": "now"}', [])
    """
    reader = ToolCalls(parser, most)
    plain, calls = reader.read(text)
    if calls and not (plain + reader.rest()).strip():
        return ("", calls)
    return (text, [])


def call_id(parser: Parser, new_id: Callable[[], str]) -> str:
    """Return an id for a call; Mistral's templates require nine letters or digits."""
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
