"""Steps that check texts and clean them: personal data by pattern, block lists, lengths, templates."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple

import numpy as np

from salver.features.pipelines.directory import inside
from salver.features.pipelines.steps.scores import plain
from salver.features.pipelines.steps.step import Arrays, Run, Step
from salver.features.pipelines.tasks.scores import json_rows, object_row
from salver.features.pipelines.texts import decoded
from salver.words.errors import InvalidInput, LoadFailed

Action = Literal["mask", "refuse", "flag"]
_MOST_LIST: Final = 4 << 20  # bytes of a block list
_MOST_WORDS: Final = 8  # of an entry of a block list
_LEAST_IP: Final = 4  # letters, such as those of ``::1``, which is nobody's
_DATE: Final = re.compile(r"[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2,4}(?![0-9])")
#: Letters without a width, which would part a word.
_INVISIBLE: Final = dict.fromkeys(
    (0xAD, 0x34F, 0x180E, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF)
)
_WORD: Final = re.compile(r"\w+")
_HOLE: Final = re.compile(r"\{(\w*)\}|\{\{|\}\}|[{}]")


class Kind(NamedTuple):
    """Kind of personal data.

    Attributes:
        pattern: What looks like it. Its repetitions are bounded and start only where no longer match could,
            so that a letter costs a constant time, whatever the text.
        length: Letters of a match, from its start, that are one; 0 = it is none.
    """

    pattern: re.Pattern[str]
    length: Callable[[str], int] = len


def is_luhn(text: str) -> bool:
    """Return whether the digits of a text pass the check of ISO/IEC 7812 (Luhn).

    >>> is_luhn("4539 1488 0343 6467"), is_luhn("4539 1488 0343 6468")
    (True, False)
    """
    digits = _digits(text)[::-1]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Return whether an account number passes the check of ISO 13616.

    >>> is_iban("GB82 WEST 1234 5698 7654 32"), is_iban("GB83 WEST 1234 5698 7654 32")
    (True, False)
    """
    bare = re.sub(r"[ -]", "", text).upper()
    if not 15 <= len(bare) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in bare[4:] + bare[:4])) % 97 == 1


def _digits(text: str) -> list[int]:
    return [int(letter) for letter in text if letter.isdecimal()]


def _iban(text: str) -> int:
    """Return the length of the account number; words in capitals may follow it."""
    ends = [len(text), *(place for place, letter in enumerate(text) if letter in " -")]
    return next((end for end in sorted(ends, reverse=True) if is_iban(text[:end])), 0)


def _card(text: str) -> int:
    digits = _digits(text)
    if len(set(digits)) < 2 or not is_luhn(text):
        return 0
    return len(text)


def _phone(text: str) -> int:
    least = 8 if text.startswith("+") else 9
    if _DATE.match(text) or not least <= len(_digits(text)) <= 15:
        return 0
    return len(text)


def _ip(text: str) -> int:
    try:
        ip_address(text)
    except ValueError:
        return 0
    return len(text) if len(text) > _LEAST_IP else 0


def _ssn(text: str) -> int:
    area, group, serial = int(text[:3]), int(text[4:6]), int(text[7:])
    if area in (0, 666) or area >= 900 or not group or not serial:
        return 0
    return len(text)


#: In this order: what one kind has taken is no match of those after it.
KINDS: Final[Mapping[str, Kind]] = {
    "email": Kind(
        re.compile(
            r"(?<![\w.+%-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@"
            r"(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
        )
    ),
    "iban": Kind(
        re.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?!\w)"), _iban
    ),
    "card": Kind(re.compile(r"(?<![\w-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-])"), _card),
    "ssn": Kind(re.compile(r"(?<![\w-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-])"), _ssn),
    "ip": Kind(
        re.compile(
            r"(?<![\w.:])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])"
            r"|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]))"
        ),
        _ip,
    ),
    "phone": Kind(
        re.compile(
            r"(?<![\w.+-])(?:(?:\+[0-9]|\([0-9]|0[0-9])(?:[ ()./-]{0,2}[0-9]){6,13}"
            r"|[0-9]{3}[.-][0-9]{3}[.-][0-9]{4})(?![\w-])"
        ),
        _phone,
    ),
}


def masked(text: str, kinds: Sequence[str]) -> tuple[str, list[str]]:
    """Return a text with ``[email]`` and so on for personal data, and the kinds that it had.

    >>> masked("Call +49 30 901820 or write to a.b@example.org!", list(KINDS))
    ('Call [phone] or write to [email]!', ['email', 'phone'])
    """
    found = []
    for name in kinds:
        kind, before = KINDS[name], text

        def masking(match: re.Match[str], name: str = name, kind: Kind = kind) -> str:
            length = kind.length(match[0])
            return f"[{name}]{match[0][length:]}" if length else match[0]

        text = kind.pattern.sub(masking, text)
        if text != before:
            found.append(name)
    return text, found


class _Filter(Step, frozen=True):
    """Base of the filters: what they do with a text in which they find something."""

    inputs: ClassVar = {"text": "BYTES[rows]"}
    outputs: ClassVar = {"text": "BYTES[rows]", "found": "BOOL[rows]"}


def _filtering(action: Action, what: str, find: Callable[[str], tuple[str, Sequence[str]]]) -> Run:
    """Return the run of a filter.

    Args:
        what: What it finds, for the error, which never repeats the text.
        find: Returns the masked text, and the names of what was found.
    """

    def run(arrays: Arrays) -> Arrays:
        texts, flags = [], []
        for row, text in enumerate(decoded("text", arrays["text"])):
            clean, found = find(text)
            if found and action == "refuse":
                raise InvalidInput(
                    f"text {row + 1} has {what}: {', '.join(found)}", fix="Leave it out of the text."
                )
            texts.append((clean if action == "mask" else text).encode())
            flags.append(bool(found))
        return {"text": object_row(texts), "found": np.array(flags, bool)}

    return run


class FilterPii(_Filter, frozen=True):
    """Personal data in texts, by pattern and check digits: masked, refused, or flagged.

    Attributes:
        kinds: What is looked for: ``email``, ``iban``, ``card`` (numbers of payment cards), ``ssn`` (of the
            United States), ``ip`` and ``phone``; all without any.
        action: ``mask`` replaces it by its kind in brackets, ``refuse`` fails the request, ``flag`` tells.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    action: Action = "mask"

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise LoadFailed(f"filter-pii: {unknown[0]!r} is no kind", fix=f"There are: {', '.join(KINDS)}")
        ordered = [kind for kind in KINDS if kind in self.kinds]
        return _filtering(self.action, "personal data", lambda text: masked(text, ordered))


class BlockList(_Filter, frozen=True):
    """Words and phrases of a file in texts: masked, refused, or flagged.

    Whole words are compared, without regard to case, compatibility forms and invisible letters (Unicode's
    NFKC and case folding).

    Attributes:
        file: Text file beside ``pipeline.toml`` with an entry a line, of at most 8 words; ``#`` begins a
            comment.
        action: ``mask`` replaces it by asterisks, ``refuse`` fails the request, ``flag`` only tells.
    """

    file: str = "blocked.txt"
    action: Action = "mask"

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        blocked = _entries(inside(folder, self.file))
        longest = max(map(len, blocked))

        def find(text: str) -> tuple[str, Sequence[str]]:
            folded = _folded(text)
            words = [(match[0].casefold(), match.span()) for match in _WORD.finditer(folded)]
            spans: list[tuple[int, int]] = []
            at = 0
            while at < len(words):
                sizes = range(min(longest, len(words) - at), 0, -1)
                parts = (tuple(word for word, _ in words[at : at + size]) for size in sizes)
                size = next((len(part) for part in parts if part in blocked), 0)
                if size:
                    spans.append((words[at][1][0], words[at + size - 1][1][1]))
                at += size or 1
            return _starred(folded, spans), ["a blocked word"] * bool(spans)

        return _filtering(self.action, "what is not allowed", find)


def _folded(text: str) -> str:
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text.translate(_INVISIBLE))


def _starred(text: str, spans: Sequence[tuple[int, int]]) -> str:
    parts, at = [], 0
    for begin, end in spans:
        parts += [text[at:begin], "*" * (end - begin)]
        at = end
    return "".join([*parts, text[at:]])


def _entries(path: Path) -> frozenset[tuple[str, ...]]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_LIST + 1)
        if len(content) > _MOST_LIST:
            raise LoadFailed(f"block-list: {path} is larger than {_MOST_LIST} bytes")
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadFailed(
            f"block-list: {path} cannot be read: {error}", fix="It has an entry a line."
        ) from error
    found = set()
    for number, line in enumerate(lines, 1):
        words = tuple(word.casefold() for word in _WORD.findall(_folded(line.partition("#")[0])))
        if len(words) > _MOST_WORDS:
            raise LoadFailed(f"block-list: {path}, line {number}: an entry has at most {_MOST_WORDS} words")
        found.add(words)
    found.discard(())
    if not found:
        raise LoadFailed(f"block-list: {path} has no entries", fix="It has an entry a line.")
    return frozenset(found)


_COUNTS: Final[Mapping[str, Callable[[str], int]]] = {
    "characters": len,
    "bytes": lambda text: len(text.encode()),
    "words": lambda text: len(text.split()),
}


class Length(Step, frozen=True):
    """Bounds of the length of texts: a text outside is refused, or flagged.

    Attributes:
        least, most: Bounds, both allowed.
        unit: What is counted; a word is what blanks part.
        action: ``refuse`` fails the request, ``flag`` only tells.
    """

    inputs: ClassVar = {"text": "BYTES[rows]"}
    outputs: ClassVar = {"text": "BYTES[rows]", "fits": "BOOL[rows]"}

    least: int = 0
    most: int = 100_000
    unit: Literal["characters", "bytes", "words"] = "characters"
    action: Literal["refuse", "flag"] = "refuse"

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not 0 <= self.least <= self.most:
            raise LoadFailed("length: `least` must not be negative, nor above `most`")
        count = _COUNTS[self.unit]

        def run(arrays: Arrays) -> Arrays:
            sizes = [count(text) for text in decoded("text", arrays["text"])]
            fits = np.array([self.least <= size <= self.most for size in sizes], bool)
            if self.action == "refuse" and not fits.all():
                row = int(np.argmin(fits))
                raise InvalidInput(
                    f"text {row + 1} has {sizes[row]} {self.unit}",
                    fix=f"Send texts of {self.least} to {self.most} {self.unit}.",
                )
            return {"text": arrays["text"], "fits": fits}

        return run


class Format(Step, frozen=True):
    """Text of each row from a template with inputs of any names.

    Attributes:
        template: Text with ``{name}`` where the value of an input goes; ``{{`` and ``}}`` are braces. Texts
            go in as they are, numbers and lists as JSON writes them.
    """

    outputs: ClassVar = {"text": "BYTES[rows]"}
    others: ClassVar = "ANY[rows, ...]"

    template: str = ""

    def check_others(self, names: Sequence[str]) -> None:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        holes = {part for part, is_hole in self._parts() if is_hole}
        if not names or holes != set(names):
            asked, given = (", ".join(sorted(some)) or "none" for some in (holes, names))
            fix = f"The template has: {asked}; the inputs: {given}"
            raise LoadFailed("format: the inputs are not those of the template", fix=fix)

    def _parts(self) -> list[tuple[str, bool]]:
        """Return texts, and names of inputs with True. Raises LoadFailed."""
        found, at = [], 0
        for match in _HOLE.finditer(self.template):
            found.append((self.template[at : match.start()], False))
            at = match.end()
            if match[0] in ("{", "}"):
                raise LoadFailed(
                    f"format: a brace at {match.start()} has no other", fix="Write {{ or }} for braces"
                )
            found.append((match[1], True) if match[1] is not None else (match[0][0], False))
        return [*found, (self.template[at:], False)]

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        parts = self._parts()

        def run(arrays: Arrays) -> Arrays:
            columns = {name: [_told(value) for value in values.tolist()] for name, values in arrays.items()}
            rows = len(next(iter(arrays.values())))
            texts = [
                "".join(columns[part][row] if is_hole else part for part, is_hole in parts)
                for row in range(rows)
            ]
            return {"text": object_row([text.encode() for text in texts])}

        return run


def _told(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    written: bytes = json_rows([plain(value)]).tolist()[0]
    return written.decode()
