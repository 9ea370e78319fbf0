"""Text from outside without control characters, for logs and terminals. Pure."""

from typing import Final

#: C0 and C1 controls, DEL, line and paragraph separators, and the marks that reorder text.
_ESCAPES: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x2028,
        0x2029,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
} | {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
_ESCAPES_OF_LINES: Final = {code: text for code, text in _ESCAPES.items() if code != 0x0A}


def printable(text: object, instead: str = "?") -> str:
    """Return text from outside without characters that would control a terminal.

    >>> printable("fraud\\x1b[31m")
    'fraud?[31m'
    """
    letters = str(text)
    if letters.isprintable():
        return letters
    return "".join([letter if letter.isprintable() else instead for letter in letters])


def escape(text: str, *, keeps_lines: bool = False) -> str:
    r"""Return the text with control characters and lone surrogates written out.

    Args:
        keeps_lines: Leave line feeds, as in a traceback.

    >>> escape("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    escaped = text.translate(_ESCAPES_OF_LINES if keeps_lines else _ESCAPES)
    return escaped.encode("utf-8", "backslashreplace").decode()
