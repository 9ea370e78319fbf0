"""Names of files and folders that are models, versions, or neither. Pure."""

import re
from typing import Final

_UNFINISHED: Final = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
_VERSION: Final = re.compile(r"[0-9]{1,18}")
_PLAIN: Final = re.compile(r"[1-9][0-9]{0,17}")
_OTHER: Final = re.compile(r"[^A-Za-z0-9._-]+")

#: Stems that do not name a model; its folder does.
GENERIC_STEMS: Final = frozenset({"model", "saved_model", "model_repository"})


def is_visible(name: str) -> bool:
    """Return False for hidden and unfinished files: ``.x``, ``x.tmp``, ``x.part``, ``x~``.

    >>> [is_visible(n) for n in ("model.onnx", ".git", "model.onnx.part")]
    [True, False, False]
    """
    return not name.startswith((".", "__pycache__")) and not name.endswith(_UNFINISHED)


def is_version(name: str) -> bool:
    """Return True for a version as Salver and Triton name them: digits, no leading zero."""
    return _PLAIN.fullmatch(name) is not None


def is_padded_version(name: str) -> bool:
    """Return True for any number, with or without leading zeros, as TensorFlow Serving's ``00000123``."""
    return _VERSION.fullmatch(name) is not None and name.isascii()


def model_name(stem: str) -> str:
    """Return a model name made of a file's stem.

    >>> model_name("résumé ranker (v2)")
    'r_sum_ranker_v2'
    """
    return _OTHER.sub("_", stem).strip("_.") or "model"
