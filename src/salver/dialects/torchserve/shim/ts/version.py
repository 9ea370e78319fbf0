"""Version of TorchServe whose interface this package has."""

#: The release of TorchServe whose behaviour this is.
__version__ = "0.12.0"
