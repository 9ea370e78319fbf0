"""Conversion between text and tokens, and the growing text of one sequence.

A :class:`Vocabulary` converts text to tokens and back; a :class:`Transcript` turns a sequence's tokens into
text as they arrive: no partial characters, nothing after a stop text, nothing that may turn out to be the
beginning of one. Pure.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol

from salver.words.errors import InvalidInput, LoadFailed


class Vocabulary(Protocol):
    """Tokens of a model.

    Attributes:
        size: Number of tokens; ids are 0 to ``size`` - 1.
    """

    size: int

    def encode(self, text: str, most: int) -> list[int]:
        """Return the tokens of a text.

        Raises:
            InvalidInput: there are more than ``most``, or a part has no token.
        """
        ...

    def spell(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a token."""
        ...


class ByteVocabulary:
    """Vocabulary of the bytes of UTF-8 text.

    >>> ByteVocabulary().encode("aü", most=3)
    [97, 195, 188]
    """

    size = 256

    def encode(self, text: str, most: int) -> list[int]:
        """See :class:`Vocabulary`."""
        data = text.encode()
        if len(data) > most:
            raise _too_long(most)
        return list(data)

    def spell(self, token: int) -> bytes:
        """See :class:`Vocabulary`."""
        return bytes((token,))


class TextVocabulary:
    """Vocabulary of listed texts; a text is split greedily into the longest listed ones.

    Raises:
        LoadFailed: the list is empty, or has a duplicate or an empty text.

    >>> TextVocabulary(["a", "b", "ab", "c"]).encode("abc", most=3)
    [2, 3]
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.size = len(texts)
        self._spelt = [text.encode() for text in texts]
        self._ids = {text: token for token, text in enumerate(texts)}
        if not texts or len(self._ids) != len(texts) or "" in self._ids:
            raise LoadFailed(
                "the vocabulary is empty, or holds a text twice or an empty text",
                field="steps.vocabulary",
                fix="List each token's text once, in the order of the ids.",
            )
        self._longest = max(map(len, texts))

    def encode(self, text: str, most: int) -> list[int]:
        """See :class:`Vocabulary`."""
        tokens: list[int] = []
        at = 0
        while at < len(text):
            if len(tokens) == most:  # long texts must not cost their time before they are rejected
                raise _too_long(most)
            for end in range(min(len(text), at + self._longest), at, -1):
                token = self._ids.get(text[at:end])
                if token is not None:
                    break
            else:
                raise InvalidInput(
                    f"the model's vocabulary has no token for {text[at]!r} (at character {at})",
                    field="text_input",
                )
            tokens.append(token)
            at = end
        return tokens

    def spell(self, token: int) -> bytes:
        """See :class:`Vocabulary`."""
        return self._spelt[token]


class Transcript:
    """Text of one answer as it grows.

    Args:
        stops: Texts that end the answer and are not part of it.

    >>> transcript = Transcript(ByteVocabulary(), ("END",))
    >>> [transcript.add(token) for token in "aü".encode()], transcript.is_stopped
    (['a', '', 'ü'], False)
    >>> [transcript.add(token) for token in b"bEENDx"], transcript.is_stopped
    (['b', '', 'E', '', '', ''], True)
    """

    def __init__(self, vocabulary: Vocabulary, stops: tuple[str, ...] = ()) -> None:
        self._spell = vocabulary.spell
        # Incremental, because a token may end inside of a character.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = stops
        self._held = ""  # may be the beginning of a stop text
        self.is_stopped = False

    def add(self, token: int) -> str:
        """Add a token; return the text that is now certain."""
        return self._sure(self._decode(self._spell(token)))

    def rest(self) -> str:
        """Return the text that was still uncertain, when no more tokens follow."""
        text = self._sure(self._decode(b"", True))
        held, self._held = self._held, ""
        if self.is_stopped:
            return text
        return text + held

    def _sure(self, text: str) -> str:
        if self.is_stopped or not self._stops:
            if self.is_stopped:
                return ""
            return text
        text = self._held + text
        # The earliest stop text counts, even if a later one was complete first.
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self.is_stopped = True
            return text[: min(found)]
        # What might begin a stop text is held back: what has been sent cannot be taken back.
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _too_long(most: int) -> InvalidInput:
    return InvalidInput(
        f"the prompt has more than the {most} tokens that one sequence may have",
        field="text_input",
        fix="Shorten it; the model's owner sets steps.max_context and steps.max_tokens.",
    )


def _overlap(text: str, stop: str) -> int:
    """Return the number of characters at the end of a text that may begin the stop text."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
