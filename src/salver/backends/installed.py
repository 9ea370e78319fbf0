"""Which modules can be imported here, found out without importing them."""

import importlib.util


def is_installed(module: str) -> bool:
    """Return True if the module's top package can be found; a deeper look would import it."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
