"""Protocols of what TensorFlow Serving's routes need from the server."""

from typing import Protocol

from salver.transport.ports import Control


class Aliased(Protocol):
    """What a name stands for."""

    @property
    def model(self) -> str:
        """Name of the model."""
        ...


class AliasControl(Control, Protocol):
    """Control of the models, which also knows names of LoRAs."""

    def speech(self, name: str) -> Aliased:
        """Return what a name stands for. Raises NotFound or NotReady."""
        ...
