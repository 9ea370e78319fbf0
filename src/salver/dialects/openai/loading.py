"""Chat templates and tokenizers of models, read when they are loaded."""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from salver.dialects.openai.voice import Voice
from salver.dialects.openai.voices import voice_of
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest


class VoiceAttachment:
    """Reads the voice of each version, and keeps it while the version is loaded.

    Args:
        common: For models that say nothing themselves.
    """

    def __init__(self, common: Voice) -> None:
        self._common = common
        self._voices: WeakKeyDictionary[object, Voice] = WeakKeyDictionary()  # by servable

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None]:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        voice = await asyncio.to_thread(voice_of, manifest, self._common)

        def attach(servable: Servable) -> None:
            self._voices[servable] = voice

        return attach

    def of(self, servable: object) -> Voice:
        """Return the voice of a servable."""
        return self._voices.get(servable, self._common)
