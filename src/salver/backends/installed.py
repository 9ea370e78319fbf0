"""Check for installed modules without importing them."""

import importlib.util


def is_installed(module: str) -> bool:
    """Return whether the module's top package can be found; a deeper check would import it."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
