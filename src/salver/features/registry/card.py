"""Front matter of a model card.

A card is a README in Markdown, with YAML between two lines of ``---`` at its start, as on Hugging Face. It is
untrusted: its size is limited, and only plain values are allowed.
"""

import datetime
from collections.abc import Mapping
from typing import Any, Final

from salver.encoding.plain_yaml import read_yaml
from salver.features.registry.names import is_text
from salver.words.errors import InvalidInput

_MOST_BYTES: Final = 1 << 20
_MOST_KEYS_BYTES: Final = 64 << 10
_MOST_DEPTH: Final = 32
_FENCE: Final = "---"


def front_matter(card: str) -> Mapping[str, Any]:
    """Return the front matter as JSON values; empty without one.

    Raises:
        InvalidInput: the card is too long, or its front matter cannot be read.
        MissingExtra: it has one, but no YAML parser is installed.
    """
    if len(card.encode(errors="surrogatepass")) > _MOST_BYTES or not is_text(card):
        raise InvalidInput(f"the card is longer than {_MOST_BYTES >> 20} MiB, contains NUL, or is not text")
    text = _between(card)
    if not text.strip():
        return {}
    said = read_yaml(text, "the card's front matter", "registry", _MOST_KEYS_BYTES)
    try:
        found = _plain(said, 0)
    except ValueError as error:
        raise InvalidInput(f"the card's front matter is invalid: {error}", field="card") from error
    if not isinstance(found, dict):
        raise InvalidInput("the card's front matter holds no keys", field="card", fix="Write `license: mit`.")
    return found


def _between(card: str) -> str:
    """Return the lines between a fence on the first line and the next fence."""
    lines = card.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != _FENCE:
        return ""
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == _FENCE:
            return "\n".join(lines[1:number])
    return ""


def _plain(value: Any, depth: int) -> Any:
    """Return the value with dates and the like as text."""
    if depth > _MOST_DEPTH:
        raise ValueError(f"it is nested deeper than {_MOST_DEPTH}")
    if isinstance(value, dict):
        return {_plain(str(key), depth): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    # YAML escapes can produce characters that the card itself does not contain
    if isinstance(value, str) and not is_text(value):
        raise ValueError(f"{value[:40]!r} contains NUL, or is not text")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return str(value)
