"""Chat templates and tokenizers of models, read when they are loaded."""

import asyncio
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from salver.kernel.serving.servable import Servable
from salver.lazy import lazy_imports
from salver.words.artifacts import Chat, Manifest

with lazy_imports():
    from salver.dialects.openai.model_resolver import settings_of
    from salver.dialects.openai.resolved_model import ChatSettings

_NO_CHAT: Final = Chat()
#: Files beside a model of Triton's vLLM backend.
_LORAS: Final = ("model.json", "multi_lora.json")


class ChatSettingsAttachment:
    """Reads the settings of each version and keeps them while it is loaded.

    Attributes:
        common: Settings of models that have none of their own; None = the defaults.
    """

    def __init__(self, common: "ChatSettings | None" = None) -> None:
        self.common = common
        self._settings: WeakKeyDictionary[object, ChatSettings] = WeakKeyDictionary()  # by servable

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None] | None:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        settings = await asyncio.to_thread(self._read, manifest)
        if settings is None:
            return None

        def attach(servable: Servable) -> None:
            self._settings[servable] = settings

        return attach

    def _read(self, manifest: Manifest) -> "ChatSettings | None":
        folders = (manifest.path, manifest.path.parent)
        has_loras = any((folder / name).is_file() for folder in folders for name in _LORAS)
        if manifest.config.chat == _NO_CHAT and not has_loras:
            return None
        return settings_of(manifest, self.common or ChatSettings())

    def of(self, servable: object) -> "ChatSettings":
        """Return the settings of a servable."""
        return self._settings.get(servable) or self.common or ChatSettings()
