"""Whose handlers run here?"""

#: The release of TorchServe whose behaviour this is.
__version__ = "0.12.0"
