"""Chat templates and tokenizers of models, read when they are loaded."""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from salver.dialects.openai.model_resolver import settings_of
from salver.dialects.openai.resolved_model import ChatSettings
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest


class ChatSettingsAttachment:
    """Reads the settings of each version and keeps them while it is loaded.

    Args:
        common: Settings of models that have none of their own.
    """

    def __init__(self, common: ChatSettings) -> None:
        self._common = common
        self._settings: WeakKeyDictionary[object, ChatSettings] = WeakKeyDictionary()  # by servable

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None]:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        settings = await asyncio.to_thread(settings_of, manifest, self._common)

        def attach(servable: Servable) -> None:
            self._settings[servable] = settings

        return attach

    def of(self, servable: object) -> ChatSettings:
        """Return the settings of a servable."""
        return self._settings.get(servable, self._common)
