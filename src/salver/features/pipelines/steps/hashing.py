"""Feature hashing: columns with many values as a fixed number of features, without a list of the values.

The function is that of scikit-learn's ``FeatureHasher`` for dictionaries: 32-bit MurmurHash3 (seed 0) of
``name=value`` in UTF-8 decides the feature (its absolute value modulo the features) and the sign. It is the
same in every process and on every machine.
"""

import functools
import struct
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from salver.features.pipelines.steps.columns import TEXT, check_names
from salver.features.pipelines.steps.step import Arrays, Run, Step
from salver.words.errors import LoadFailed
from salver.words.messages import NULL, Column

_MASK: Final = 0xFFFFFFFF
_MOST_FEATURES: Final = 1 << 16
_REMEMBERED: Final = 10_000
#: Longer texts are hashed each time.
_SHORT: Final = 256


def murmur3(data: bytes) -> int:
    """Return the 32-bit MurmurHash3 of bytes as a signed number, with the seed 0.

    >>> murmur3(b""), murmur3(b"hello"), murmur3(b"hello, world")
    (0, 613153351, 345750399)
    """
    hashed = 0
    size = len(data) & ~3
    tail = int.from_bytes(data[size:], "little")
    words = [*struct.unpack(f"<{size // 4}I", data[:size])]
    for word in words:
        hashed ^= _mixed(word)
        hashed = (hashed << 13 | hashed >> 19) & _MASK
        hashed = (hashed * 5 + 0xE6546B64) & _MASK
    if len(data) > size:
        hashed ^= _mixed(tail)
    hashed ^= len(data)
    hashed = (hashed ^ hashed >> 16) * 0x85EBCA6B & _MASK
    hashed = (hashed ^ hashed >> 13) * 0xC2B2AE35 & _MASK
    hashed ^= hashed >> 16
    return hashed - (1 << 32) * (hashed >> 31)


def _mixed(word: int) -> int:
    word = word * 0xCC9E2D51 & _MASK
    word = (word << 15 | word >> 17) & _MASK
    return word * 0x1B873593 & _MASK


class Hash(Step, frozen=True):
    """Texts of several columns as the sums of signed features; a missing text adds nothing.

    Attributes:
        columns: Names of the columns, which are part of what is hashed.
        features: Number of features.
        signed: A value adds 1 or -1, so that those that meet cancel on average; else always 1.
    """

    by_name: ClassVar = True

    columns: tuple[str, ...] = ()
    features: int = 256
    signed: bool = True

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise LoadFailed("hash: there are no columns, or one is there twice")
        if not 1 <= self.features <= _MOST_FEATURES:
            raise LoadFailed(f"hash: `features` must be from 1 to {_MOST_FEATURES}")
        check_names("hash", self.columns)
        return dict.fromkeys(self.columns, TEXT), {"hashed": f"FP64[rows, {self.features}]"}

    def table_columns(self, folder: Path) -> dict[str, Column]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return dict.fromkeys(self.columns, Column("text", takes_null=True))

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        prefixes = {name: name.encode() + b"=" for name in self.columns}

        def place(token: bytes) -> tuple[int, float]:
            hashed = murmur3(token)
            sign = -1.0 if hashed < 0 and self.signed else 1.0
            return abs(hashed) % self.features, sign

        remembered = functools.lru_cache(_REMEMBERED)(place)

        def run(arrays: Arrays) -> Arrays:
            rows = len(arrays[self.columns[0]])
            found = np.zeros((rows, self.features))
            for name, prefix in prefixes.items():
                for row, value in enumerate(arrays[name].tolist()):
                    if value != NULL:
                        find = remembered if len(value) <= _SHORT else place
                        at, sign = find(prefix + value)
                        found[row, at] += sign
            return {"hashed": found}

        return run
