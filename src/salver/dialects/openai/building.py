"""Parts of OpenAI's API."""

import asyncio
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from salver.dialects.openai.routes import OPERATIONS, find, is_openai
from salver.kernel.serving.loading import Additions
from salver.kernel.serving.servable import Servable
from salver.lazy import lazily, lazy_imports
from salver.parts import Kernel, Parts
from salver.transport.first_call import endpoints_later
from salver.transport.ports import ModelNames
from salver.transport.routes import HttpTable
from salver.words.artifacts import Chat, Manifest

with lazy_imports():
    from salver.dialects.openai.faults import openai_fault
    from salver.dialects.openai.model_resolver import ModelResolver, openai_config, settings_of
    from salver.dialects.openai.operations import OpenAiOperations
    from salver.dialects.openai.resolved_model import ChatSettings, ResolvedModel

_NO_CHAT: Final = Chat()
#: Files beside a model of Triton's vLLM backend.
_LORAS: Final = ("model.json", "multi_lora.json")


class _ChatSettings:
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


async def build(kernel: Kernel, config: None) -> Parts:
    """Return OpenAI's routes and the reader of models' templates and tokenizers."""
    attachment = _ChatSettings()

    def resolver_of_server() -> ModelResolver:
        settings = openai_config(kernel.config)
        attachment.common = settings.read()
        return ModelResolver(settings, kernel.models, attachment.of)

    if kernel.config.tables.get("openai"):
        resolver = await asyncio.to_thread(resolver_of_server)
    else:
        resolver = lazily(resolver_of_server)

    def resolve(name: str) -> ResolvedModel:
        return resolver.of(name)

    kernel.services.offer(ModelNames, resolver)
    context = kernel.context

    def http() -> HttpTable:
        return OpenAiOperations(kernel.door, kernel.control, resolve, context).table()

    table = HttpTable(OPERATIONS, endpoints_later(http), openai_fault, is_openai, find)
    return Parts(http=[table], additions=Additions(attachments=[attachment]))
