"""What a handler that was written for TorchServe imports.

The names are TorchServe's, and so is what they do; :mod:`salver.dialects.torchserve.backend` runs the
handlers.
"""

from ts.version import __version__

__all__ = ["__version__"]
