"""Tokenization of the texts of a batch, and the arrays that networks take.

All texts of a batch are encoded by one call, which releases the interpreter lock, and padded to the longest
text of a run. Only texts beyond the limit are encoded again, with the truncation of their task.
"""

import functools
import operator
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from salver.features.pipelines.directory import ModelDirectory
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import Array

Truncation = Literal["longest_first", "only_first", "only_second", "no"]

#: Characters of a text that are encoded at first, for each token that the network takes.
_CHARACTERS_A_TOKEN: Final = 16
#: Splitters of words after which the beginning of a text has the tokens that it has in the whole text.
_SPLITS_AT_BLANKS: Final = frozenset(("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel"))
#: Tokens, with padding, of one run of the network; bounds its memory.
MOST_TOKENS: Final = 16_384
#: What the inputs of a network are in an encoding.
_ATTRIBUTES: Final = {
    "input_ids": operator.attrgetter("ids"),
    "attention_mask": operator.attrgetter("attention_mask"),
    "token_type_ids": operator.attrgetter("type_ids"),
}
_SLACK: Final = 16  # tokens by which texts of one run may differ before the padding costs more than a run


class Piece(msgspec.Struct, frozen=True):
    """A text or a pair of texts for the network.

    Attributes:
        truncation: Which of the two texts is cut at the limit; ``no`` = a longer one is refused.
        limit: Most tokens; 0 = what the network takes.
        stride: Tokens by which the windows of a long text overlap; None = it is cut, and the rest is dropped.
    """

    text: str
    pair: str | None = None
    truncation: Truncation = "longest_first"
    limit: int = 0
    stride: int | None = None


class TextEncoder:
    """Tokenizer of a directory.

    Args:
        directory: The directory.
        names: Inputs of the network, with their datatypes.

    Attributes:
        tokenizer: The tokenizer, without truncation and padding.
        unknown, mask, separator: Ids of special tokens; -1 = it has none.
        special: Ids of all special tokens that the files name.
        truncated: Number of texts that were cut.
    """

    def __init__(self, directory: ModelDirectory, names: dict[str, Any], load: Callable[[str], Any]) -> None:
        self._path = directory.root / "tokenizer.json"
        self._load: Callable[[], Any] = functools.partial(_loaded, load, _content(self._path), self._path)
        self.tokenizer = self._load()
        config = directory.tokenizer
        self.limit = directory.max_length or 0
        self.pads_left = config.padding_side == "left"
        self.cuts_left = config.truncation_side == "left"
        pad = self.id_of(config.token("pad_token"))
        self.pad = max(0, directory.config.pad_token_id or 0) if pad < 0 else pad
        self.unknown = self.id_of(config.token("unk_token"))
        self.mask_token = config.token("mask_token")
        self.mask = self.id_of(self.mask_token)
        self.cls = self.id_of(config.token("cls_token"))
        self.special = frozenset(found for token in config.specials if (found := self.id_of(token)) >= 0)
        self._names = names
        self._cutting: Any = None
        self._lock = threading.Lock()  # a tokenizer's truncation is a setting, not an argument
        self._may_shorten = _splits_at_blanks(self.tokenizer) and not self.cuts_left
        self.truncated = 0

    def id_of(self, token: str) -> int:
        """Return the id of a token; -1 = there is none."""
        found = self.tokenizer.token_to_id(token) if token else None
        return -1 if found is None else int(found)

    def plain_ids(self, text: str) -> list[int]:
        """Return the ids of a text, without those that a template adds."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, pieces: Sequence[Piece]) -> list[Any]:
        """Return the encodings of each piece, several for one with a stride, or its InvalidInput."""
        texts = [self._shortened(piece) for piece in pieces]
        found: list[Any] = []
        for piece, encoding in zip(pieces, self.tokenizer.encode_batch(texts), strict=True):
            limit = piece.limit or self.limit
            if limit and len(encoding) > limit:
                found.append(self._cut(piece, limit))
            else:
                found.append([encoding])
        return found

    def _shortened(self, piece: Piece) -> Any:
        """Return the text, without what is certainly beyond the limit."""
        limit = piece.limit or self.limit
        text, pair = piece.text, piece.pair
        if limit and self._may_shorten and piece.stride is None:
            text = self._beginning(text, limit)
            pair = None if pair is None else self._beginning(pair, limit)
        return text if pair is None else (text, pair)

    def _beginning(self, text: str, limit: int) -> str:
        """Return the beginning of a long text that holds more than ``limit`` tokens, cut at a blank.

        A text of 100,000 tokens would take a quarter of a second, of which the first 512 are used.
        """
        size = limit * _CHARACTERS_A_TOKEN
        while size < len(text):
            at = _blank_before(text, size)
            if at and len(self.tokenizer.encode(text[:at], add_special_tokens=False)) > limit:
                return text[:at]
            size *= 4
        return text

    def _cut(self, piece: Piece, limit: int) -> Any:
        if piece.truncation == "no":
            return InvalidInput(
                f"inputs has a text with more than the {limit} tokens that the model takes: {_shown(piece)}",
                field="inputs",
                fix='Shorten the text, or send "truncation": true to cut it.',
            )
        with self._lock:
            if self._cutting is None:
                self._cutting = self._load()
            self.truncated += 1
            side = "left" if self.cuts_left else "right"
            try:
                self._cutting.enable_truncation(
                    max_length=limit, stride=piece.stride or 0, strategy=piece.truncation, direction=side
                )
                encoding = self._cutting.encode(*self._pair_of(piece))
            except Exception as error:  # tokenizers raises plain exceptions
                return InvalidInput(
                    f"inputs has a text that cannot be cut to {limit} tokens ({error}): {_shown(piece)}",
                    field="inputs",
                    fix="Shorten the other text of the pair.",
                )
        if piece.stride is None:
            return [encoding]
        return [encoding, *encoding.overflowing]

    def _pair_of(self, piece: Piece) -> tuple[str, ...]:
        whole = self._shortened(piece)
        return whole if isinstance(whole, tuple) else (whole,)

    def arrays(self, encodings: Sequence[Any], multiple: int = 1) -> dict[str, Array]:
        """Return the inputs of the network for texts of one run, padded to the longest one.

        Args:
            multiple: Number that divides the length of the padded rows.
        """
        width = -(-max(map(len, encodings)) // multiple) * multiple
        is_even = all(len(encoding) == width for encoding in encodings)
        arrays = {}
        for name, dtype in self._names.items():
            rows = list(map(_ATTRIBUTES[name], encodings))
            if is_even:
                arrays[name] = np.array(rows, dtype)
                continue
            fill = self.pad if name == "input_ids" else 0
            arrays[name] = array = np.full((len(rows), width), fill, dtype)
            for row, encoding in enumerate(encodings):
                array[row, self.place(encoding, width)] = rows[row]
        return arrays

    def place(self, encoding: Any, width: int) -> slice:
        """Return where the tokens of a text lie in a padded row."""
        if self.pads_left:
            return slice(width - len(encoding), width)
        return slice(0, len(encoding))

    def decode(self, ids: Sequence[int], *, skips_special: bool) -> str:
        """Return the text of tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skips_special)
        return text

    def joined(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens given by their texts."""
        decoder = self.tokenizer.decoder
        if decoder is None:
            return " ".join(tokens)
        text: str = decoder.decode(list(tokens))
        return text


def decoded(name: str, values: Array) -> list[str]:
    """Return the texts of a tensor.

    Raises:
        InvalidInput: one is not UTF-8.
    """
    try:
        return [value if isinstance(value, str) else value.decode() for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{name} has bytes that are not valid UTF-8 ({error.reason}): {error.object[:40]!r}",
            field=name,
            fix="Send the text encoded as UTF-8.",
        ) from error


def grouped(lengths: Sequence[int], most_tokens: int = MOST_TOKENS) -> list[list[int]]:
    """Return indices of texts in runs of similar length, each of at most so many tokens with its padding.

    >>> grouped([5, 200, 6, 210]), grouped([60] * 3, most_tokens=128)
    ([[0, 2], [1, 3]], [[0, 1], [2]])
    """
    groups: list[list[int]] = []
    shortest = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        if groups and length <= 2 * shortest + _SLACK and length * (len(groups[-1]) + 1) <= most_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
            shortest = length
    return groups


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise LoadFailed(
            f"{path.parent} has no readable tokenizer.json ({error})",
            fix="Write one with transformers: AutoTokenizer.from_pretrained(path).save_pretrained(path).",
        ) from error


def _loaded(load: Callable[[str], Any], content: str, path: Path) -> Any:
    """Return a tokenizer without the truncation and padding of its file, which transformers ignores, too."""
    tokenizer = load(content)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if not tokenizer.get_vocab_size():
        raise LoadFailed(f"{path} has no tokens", fix="Download the directory again.")
    return tokenizer


def _shown(piece: Piece) -> str:
    """Return the beginning of a text, by which its sender finds it among many."""
    return repr(piece.text[:40]) + "…" * (len(piece.text) > 40)


def _splits_at_blanks(tokenizer: Any) -> bool:
    return type(tokenizer.pre_tokenizer).__name__ in _SPLITS_AT_BLANKS


def _blank_before(text: str, at: int) -> int:
    """Return the last place before ``at`` of a single blank between two words; 0 = there is none."""
    while (at := text.rfind(" ", 1, at)) > 0:
        if not text[at - 1].isspace() and not text[at + 1 : at + 2].isspace():
            return at
    return 0
