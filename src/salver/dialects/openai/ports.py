"""Protocols of what OpenAI's routes need from the server."""

from typing import Protocol

from salver.dialects.openai.voice import Spoken
from salver.transport.ports import Control


class SpeechControl(Control, Protocol):
    """Control of the models, which also knows the names of OpenAI's routes."""

    def speech(self, name: str) -> Spoken:
        """Return what OpenAI's routes mean by that name. Raises NotFound or NotReady."""
        ...
