"""What does the front matter of a model's card say?

A card is a README in Markdown; between two lines of ``---`` at its beginning lie keys in YAML, as on Hugging
Face. It comes from outside: it is bounded, and makes nothing but plain values.
"""

import datetime
from collections.abc import Mapping
from typing import Any, Final

from salver.errors import InvalidInput, MissingExtra

_MOST_BYTES: Final = 1 << 20
_MOST_KEYS_BYTES: Final = 64 << 10
_MOST_VALUES: Final = 10_000  # with all that aliases stand for
_MOST_DEPTH: Final = 32
_FENCE: Final = "---"


def front_matter(card: str) -> Mapping[str, Any]:
    """Its keys, as values that can be written as JSON; none where it has none.

    Raises:
        InvalidInput: the card is too long, or its front matter cannot be read.
        MissingExtra: it has some, and nothing here reads YAML.
    """
    if len(card.encode()) > _MOST_BYTES or "\0" in card:
        raise InvalidInput(f"the card is longer than {_MOST_BYTES >> 20} MiB, or holds a NUL")
    text = _between(card)
    if not text.strip():
        return {}
    if len(text) > _MOST_KEYS_BYTES:
        raise InvalidInput(f"the card's front matter is longer than {_MOST_KEYS_BYTES >> 10} KiB")
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtra("registry", "registry", "yaml") from error
    try:
        found = _plain(yaml.safe_load(text), [_MOST_VALUES], 0)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(f"the card's front matter cannot be read: {reason}", field="card") from error
    if not isinstance(found, dict):
        raise InvalidInput("the card's front matter holds no keys", field="card", fix="Write `license: mit`.")
    return found


def _between(card: str) -> str:
    """The lines between the first one, if that is a fence, and the next fence."""
    lines = card.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != _FENCE:
        return ""
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == _FENCE:
            return "\n".join(lines[1:number])
    return ""


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """The same without dates and the like; an alias counts as what it stands for."""
    left[0] -= 1
    if left[0] < 0 or depth > _MOST_DEPTH:
        raise ValueError(f"more than {_MOST_VALUES} values, or nested deeper than {_MOST_DEPTH}")
    if isinstance(value, dict):
        return {str(key): _plain(each, left, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, left, depth + 1) for each in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return str(value)
