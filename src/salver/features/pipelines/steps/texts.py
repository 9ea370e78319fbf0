"""Steps on texts: tokenization, normal forms, splitting and joining."""

import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal

import msgspec
import numpy as np

from salver.features.pipelines.directory import inside, read_tokenizer
from salver.features.pipelines.steps.step import OFFSETS, Arrays, Run, RunMany, Step
from salver.features.pipelines.tasks.scores import object_row
from salver.features.pipelines.texts import Piece, TextEncoder, Truncation, decoded
from salver.words.errors import InvalidInput, LoadFailed, SalverError
from salver.words.tensor import Array, as_bytes

_TOKENS: Final = {"input_ids": "int64", "attention_mask": "int64", "token_type_ids": "int64"}
_MOST_IDS: Final = 1 << 31
_LIBRARIES: Final = ("tokenizers",)
#: Files of a tokenizer; the others tell its limit.
_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "config.json", "sentence_bert_config.json")
_SPLITS: Final = {
    "sentences": re.compile(r"(?<=[.!?…。！？])\s+"),
    "lines": re.compile(r"[\r\n]+"),
    "paragraphs": re.compile(r"\r?\n\s*\r?\n"),
    "words": re.compile(r"\s+"),
}


class Tokenize(Step, frozen=True):
    """Texts, or pairs of texts, to the ids of their tokens, padded to the longest text of the request.

    Attributes:
        path: Folder of ``tokenizer.json``, with the files beside it that tell its limit.
        max_length: Most tokens of a text; 0 = what the files say.
        truncation: Which text of a pair is cut; ``no`` = a longer one is refused.
        pad_to: Number that divides the padded length; requests of equal length can share a run of a model.
    """

    inputs: ClassVar = {"text": "BYTES[rows]", "text_pair?": "BYTES[rows]"}
    outputs: ClassVar = dict.fromkeys(_TOKENS, "INT64[rows, tokens]")
    is_heavy: ClassVar = True
    quick_bytes: ClassVar = 512
    libraries: ClassVar = _LIBRARIES
    reads: ClassVar = _FILES

    path: str = "."
    max_length: int = 0
    truncation: Truncation = "longest_first"
    pad_to: int = 1

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        run_many = self.open_many(folder)

        def run(arrays: Arrays) -> Arrays:
            (found,) = run_many([arrays])
            if isinstance(found, SalverError):
                raise found
            return found

        return run

    def open_many(self, folder: Path) -> RunMany:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if self.pad_to < 1 or self.max_length < 0:
            raise LoadFailed("tokenize: `pad_to` must be at least 1 and `max_length` not negative")
        encoder = _encoder(folder, self.path)

        def run_many(many: Sequence[Arrays]) -> Sequence[Arrays | SalverError]:
            jobs = [self._pieces(arrays) for arrays in many]
            windows = iter(encoder.encode([piece for job in jobs if isinstance(job, list) for piece in job]))
            return [
                self._tokens(encoder, [next(windows) for _ in job]) if isinstance(job, list) else job
                for job in jobs
            ]

        return run_many

    def _pieces(self, arrays: Arrays) -> "list[Piece] | SalverError":
        try:
            texts = decoded("text", arrays["text"])
            pairs: list[str | None] = [None] * len(texts)
            if "text_pair" in arrays:
                pairs = [*decoded("text_pair", arrays["text_pair"])]
        except SalverError as error:
            return error
        return [
            Piece(text, pair, self.truncation, self.max_length)
            for text, pair in zip(texts, pairs, strict=True)
        ]

    def _tokens(self, encoder: TextEncoder, found: list[object]) -> Arrays | SalverError:
        encodings = []
        for each in found:
            if isinstance(each, SalverError):
                return each
            if not isinstance(each, list):
                return InvalidInput("a text has no tokens")
            encodings.append(each[0])
        if not encodings:
            return {name: np.zeros((0, 0), kind) for name, kind in _TOKENS.items()}
        return encoder.arrays(encodings, self.pad_to)


class Detokenize(Step, frozen=True):
    """Ids of tokens to texts.

    Attributes:
        path: Folder of ``tokenizer.json``.
        special: Show special tokens.
    """

    inputs: ClassVar = {"ids": "INT[rows, tokens]"}
    outputs: ClassVar = {"text": "BYTES[rows]"}
    libraries: ClassVar = _LIBRARIES
    reads: ClassVar = _FILES

    path: str = "."
    special: bool = False

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        decode = _encoder(folder, self.path).decode

        def run(arrays: Arrays) -> Arrays:
            ids = arrays["ids"]
            if ids.size and not 0 <= ids.min() <= ids.max() < _MOST_IDS:
                raise InvalidInput("ids of tokens are not negative, and have at most 31 bits")
            texts = [decode(row, skips_special=not self.special) for row in ids.tolist()]
            return {"text": object_row([text.encode() for text in texts])}

        return run


class TextNormalise(Step, frozen=True):
    """Texts in a normal form.

    Attributes:
        form: Unicode's normal form; empty = as it is.
        lower: Change to lower case.
        strip: Remove blanks at both ends.
        collapse: Replace blanks in a row by one space.
    """

    inputs: ClassVar = {"text": "BYTES[rows]"}
    outputs: ClassVar = {"text": "BYTES[rows]"}

    form: Literal["", "NFC", "NFD", "NFKC", "NFKD"] = "NFC"
    lower: bool = False
    strip: bool = True
    collapse: bool = False

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            return {
                "text": object_row([self._normal(text).encode() for text in decoded("text", arrays["text"])])
            }

        return run

    def _normal(self, text: str) -> str:
        if self.form and not text.isascii():
            text = unicodedata.normalize(self.form, text)
        if self.lower:
            text = text.lower()
        if self.collapse:
            text = re.sub(r"\s+", " ", text)
        return text.strip() if self.strip else text


class TextSplit(Step, frozen=True):
    """Parts of each text, a list with a row of its own for each part.

    Attributes:
        by: What the parts are.
        most: Most parts of a text, of which the rest is left out; 0 = no limit.
    """

    inputs: ClassVar = {"text": "BYTES[rows]"}
    outputs: ClassVar = {"text": "BYTES[items]"}

    by: Literal["sentences", "lines", "paragraphs", "words"] = "sentences"
    most: int = 0

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        split, most = _SPLITS[self.by].split, self.most or None

        def run(arrays: Arrays) -> Arrays:
            parts: list[bytes] = []
            offsets = [0]
            for text in decoded("text", arrays["text"]):
                parts += [part.strip().encode() for part in split(text) if part.strip()][:most]
                offsets.append(len(parts))
            return {"text": object_row(parts), OFFSETS: np.array(offsets, np.int64)}

        return run


class TextJoin(Step, frozen=True):
    """Texts of a list, joined to one for each row.

    Attributes:
        separator: What is between two of them.
    """

    inputs: ClassVar = {"text": "BYTES[items]"}
    outputs: ClassVar = {"text": "BYTES[rows]"}

    separator: str = " "

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        separator = self.separator.encode()

        def run(arrays: Arrays) -> Arrays:
            parts: list[bytes] = as_bytes(arrays["text"]).tolist()
            offsets = arrays[OFFSETS].tolist()
            rows = [separator.join(parts[a:b]) for a, b in itertools.pairwise(offsets)]
            return {"text": object_row(rows)}

        return run


class Labels(Step, frozen=True):
    """Names of classes by their indices; an index without a name is ``LABEL_0`` and so on.

    Attributes:
        names: The names in order.
        file: JSON file beside ``pipeline.toml`` instead: a list, or an object with ``id2label`` or indices.
    """

    inputs: ClassVar = {"index": "INT[rows, ...]"}
    outputs: ClassVar = {"label": "BYTES[rows, ...]"}

    names: tuple[str, ...] = ()
    file: str = ""

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if bool(self.names) == bool(self.file):
            raise LoadFailed("labels: it needs `names` or `file`, and not both")
        known = dict(enumerate(self.names)) or _labels_in(inside(folder, self.file))
        encoded = {index: name.encode() for index, name in known.items()}

        def run(arrays: Arrays) -> Arrays:
            index: Array = arrays["index"]
            found = [encoded.get(i) or b"LABEL_%d" % i for i in index.ravel().tolist()]
            return {"label": object_row(found).reshape(index.shape)}

        return run


def _encoder(folder: Path, path: str) -> TextEncoder:
    """Return the tokenizer of a folder. Raises LoadFailed."""
    # Read at the first batch. With threads, 8 short texts took five times as long on busy cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        fix = "Install it with: pip install 'salver[text]'"
        raise LoadFailed("steps on tokens need the package 'tokenizers'", fix=fix) from error
    return TextEncoder(read_tokenizer(inside(folder, path)), dict(_TOKENS), Tokenizer.from_str)


def _labels_in(path: Path) -> dict[int, str]:
    try:
        said = msgspec.json.decode(path.read_bytes())
        if isinstance(said, dict):
            said = said.get("id2label", said)
            return {int(index): str(name) for index, name in said.items()}
        return dict(enumerate(map(str, said)))
    except (OSError, ValueError, TypeError, AttributeError, msgspec.MsgspecError) as error:
        fix = "It is a JSON list of names, or an object with id2label"
        raise LoadFailed(f"labels: {path} cannot be read: {error}", fix=fix) from error
