"""Folders of the user, by the XDG base directory specification."""

import os
from pathlib import Path


def user_folder(variable: str, default: str) -> Path:
    """Return Salver's folder below the one that a variable names.

    Args:
        variable: Such as ``XDG_DATA_HOME``.
        default: Folder in the user's home if the variable is not set.

    Raises:
        RuntimeError: it is not set, and the user has no home.
    """
    base = Path(os.environ.get(variable, ""))
    if not base.is_absolute():  # the specification says to ignore relative paths
        base = Path.home() / default
    return base / "salver"
