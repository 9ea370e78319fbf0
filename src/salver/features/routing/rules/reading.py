"""Reading of ``rules.toml``."""

from pathlib import Path
from typing import Final

from salver.backends.loading import read_bounded
from salver.features.routing.rules.table import RuleTable, parse

_MOST_BYTES: Final = 1 << 20


def read(path: Path) -> RuleTable:
    """Return the rules of a file.

    Raises:
        LoadFailed: it cannot be read.
        InvalidInput: it is no TOML, or some rules are wrong.
    """
    return parse(read_bounded(path, _MOST_BYTES), str(path))
