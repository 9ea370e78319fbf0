"""Package ``ts`` that handlers written for TorchServe import.

Names and behaviour are TorchServe's; :mod:`salver.dialects.torchserve.backend` runs the handlers.
"""

from ts.version import __version__

__all__ = ["__version__"]
