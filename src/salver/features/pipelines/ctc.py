"""Texts from the outputs of networks with connectionist temporal classification (Graves et al., 2006).

Each frame of a sound has a score for each letter and for a blank. Letters that follow one another without a
blank between them are one letter.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from salver.features.pipelines.directory import Reader
from salver.words.errors import LoadFailed
from salver.words.tensor import Array

_SPACE: Final = " "
_MOST_TOKENS: Final = 1 << 20
#: Blanks before punctuation and contractions, as transformers takes them away if the files say so.
_CLEANED: Final = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


class Letter(NamedTuple):
    """A letter and its frames, ``[start, end)``."""

    text: str
    start: int
    end: int


class _Config(msgspec.Struct, frozen=True):
    """The part of ``tokenizer_config.json`` that matters."""

    pad_token: Any = "<pad>"
    word_delimiter_token: Any = "|"
    replace_word_delimiter_char: str = _SPACE
    do_lower_case: bool = False
    clean_up_tokenization_spaces: bool = False
    target_lang: str | None = None
    added_tokens_decoder: dict[str, dict[str, Any]] = {}


_CONFIG: Final = Reader(_Config)
_VOCABULARY: Final = Reader(dict[str, Any])


class Alphabet(msgspec.Struct, frozen=True):
    """Letters of a network.

    Attributes:
        letters: By their numbers; the delimiter of words is a space.
        blank: Number of the blank.
    """

    letters: tuple[str, ...]
    blank: int
    is_lower: bool = False
    is_cleaned: bool = False

    def text(self, letters: Sequence[Letter]) -> str:
        """Return the text of letters in a row."""
        joined = "".join(letter.text for letter in letters).strip()
        if self.is_lower:
            joined = joined.lower()
        if self.is_cleaned:
            for blank in _CLEANED:
                joined = joined.replace(blank, blank[1:])
        return joined

    def letters_of(self, best: Array) -> list[Letter]:
        """Return the letters of the best number of each frame.

        >>> Alphabet(("", "a", "b"), 0).letters_of(np.array([1, 1, 0, 1, 2]))
        [Letter(text='a', start=0, end=2), Letter(text='a', start=3, end=4), Letter(text='b', start=4, end=5)]
        """
        edges = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
        found = []
        for start, end in itertools.pairwise(edges):
            if start < end and (number := int(best[start])) != self.blank:
                found.append(Letter(self.letters[number], start, end))
        return found


def words(letters: Sequence[Letter]) -> list[Letter]:
    """Return the words of letters in a row.

    >>> words([Letter("a", 0, 1), Letter("t", 1, 3), Letter(" ", 3, 4), Letter("a", 5, 6)])
    [Letter(text='at', start=0, end=3), Letter(text='a', start=5, end=6)]
    """
    found: list[Letter] = []
    is_inside = False
    for letter in letters:
        if letter.text == _SPACE:
            is_inside = False
        elif is_inside:
            found[-1] = Letter(found[-1].text + letter.text, found[-1].start, letter.end)
        else:
            found.append(letter)
            is_inside = True
    return found


def beam_search(logits: Array, blank: int, beams: int) -> tuple[list[int], float]:
    """Return the most likely letters, over all ways in which frames give them, and their log probability.

    Prefix beam search without a language model (Hannun et al., 2014).

    Args:
        logits: ``[frames, letters]``.
        beams: Beginnings that are kept, and letters that are tried in each frame.

    >>> beam_search(np.log([[0.6, 0.4], [0.6, 0.4]]), 0, 4)[0]
    [1]
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    # Log probabilities of a beginning that ends with the blank, and of one that ends with its last letter.
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -np.inf)}
    for frame in scores:
        grown: defaultdict[tuple[int, ...], list[float]] = defaultdict(lambda: [-np.inf, -np.inf])
        best = np.argpartition(-frame, min(beams, len(frame)) - 1)[:beams].tolist()
        for prefix, (blanks, ends) in kept.items():
            both = np.logaddexp(blanks, ends)
            own = grown[prefix]
            own[0] = np.logaddexp(own[0], both + frame[blank])
            for number in best:
                if number == blank:
                    continue
                score = frame[number]
                longer = grown[(*prefix, number)]
                if prefix and number == prefix[-1]:
                    own[1] = np.logaddexp(own[1], ends + score)
                    longer[1] = np.logaddexp(longer[1], blanks + score)
                else:
                    longer[1] = np.logaddexp(longer[1], both + score)
        order = sorted(grown.items(), key=lambda item: -np.logaddexp(item[1][0], item[1][1]))
        kept = {prefix: (pair[0], pair[1]) for prefix, pair in order[:beams]}
    prefix, pair = next(iter(kept.items()))
    return list(prefix), float(np.logaddexp(*pair))


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the letters of a JSON file, by their numbers.

    Raises:
        LoadFailed: it has no list of texts.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=tuple[str, ...])
    except (OSError, msgspec.DecodeError) as error:
        raise LoadFailed(f"{path} is no list of letters in JSON: {error}") from error
    if len(found) > _MOST_TOKENS:
        raise LoadFailed(f"{path} has more than {_MOST_TOKENS} letters")
    return found


def read_alphabet(folder: Path) -> Alphabet:
    """Return the letters that a Hugging Face directory names, in ``vocab.json`` and the files beside it.

    Raises:
        LoadFailed: a file is missing or broken, or has no blank.
    """
    path = folder / "vocab.json"
    config = _CONFIG.read_if_there(folder / "tokenizer_config.json")
    said = _VOCABULARY.read(path)
    if said and all(isinstance(value, dict) for value in said.values()):  # one for each language
        said = said.get(config.target_lang or "eng", {})
    said |= _VOCABULARY.read_if_there(folder / "added_tokens.json")
    said |= {str(token.get("content")): number for number, token in config.added_tokens_decoder.items()}
    try:
        numbers = {int(number): str(token) for token, number in said.items()}
    except (TypeError, ValueError) as error:
        raise LoadFailed(f"{path} has a token without a number: {error}") from error
    if not numbers or not 0 <= min(numbers) <= max(numbers) < _MOST_TOKENS:
        raise LoadFailed(f"{path} has no tokens, or numbers that are not from 0 to {_MOST_TOKENS - 1}")
    delimiter, pad = _content(config.word_delimiter_token), _content(config.pad_token)
    blank = next((number for number, token in numbers.items() if token == pad), -1)
    if blank < 0:
        raise LoadFailed(f"{path} has no {pad!r}, which is the blank of such networks")
    letters = [numbers.get(number, "") for number in range(max(numbers) + 1)]
    return Alphabet(
        tuple(config.replace_word_delimiter_char if letter == delimiter else letter for letter in letters),
        blank,
        config.do_lower_case,
        config.clean_up_tokenization_spaces,
    )


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)
