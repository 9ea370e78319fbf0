"""Splitting of texts into words and groups of words.

The exact results of torchtext's ``get_tokenizer("basic_english")`` and ``ngrams_iterator``, without
torchtext: models were trained with its words.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

#: Applied in order, each to the whole text.
_RULES: Final = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\'", " '  "),
        (r"\"", ""),
        (r"\.", " . "),
        (r"<br \/>", " "),
        (r",", " , "),
        (r"\(", " ( "),
        (r"\)", " ) "),
        (r"\!", " ! "),
        (r"\?", " ? "),
        (r"\;", " "),
        (r"\:", " "),
        (r"\s+", " "),
    )
)


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """Yield the words, then each group of two to ``ngrams`` neighbours, joined by blanks.

    >>> list(ngrams_iterator(["here", "we", "are"], 2))
    ['here', 'we', 'are', 'here we', 'we are']
    """
    yield from token_list
    for size in range(2, ngrams + 1):
        for group in zip(*[token_list[start:] for start in range(size)], strict=False):
            yield " ".join(group)


def _basic_english_normalize(line: str) -> list[str]:
    line = line.lower()
    for pattern, by in _RULES:
        line = pattern.sub(by, line)
    return line.split()


def _split_tokenizer(text: str) -> list[str]:
    return text.split()


def get_tokenizer(tokenizer: Any, language: str = "en") -> Callable[[str], list[str]] | None:
    """Return a tokenizer: for None one that splits at blanks, or ``basic_english``; None for any other.

    >>> get_tokenizer("basic_english")("You can't stop (yet).")
    ['you', 'can', "'", 't', 'stop', '(', 'yet', ')', '.']
    """
    if tokenizer is None:
        return _split_tokenizer
    if tokenizer != "basic_english":
        return None
    if language != "en":
        raise ValueError("Basic normalization is only available for English (en)")
    return _basic_english_normalize
