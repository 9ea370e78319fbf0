"""Parts of OpenAI's API."""

import asyncio
import time

from salver.dialects.openai.loading import ChatSettingsAttachment
from salver.dialects.openai.routes import OPERATIONS, find, is_openai
from salver.kernel.serving.loading import Additions
from salver.lazy import lazily, lazy_imports
from salver.parts import Kernel, Parts
from salver.transport.first_call import endpoints_later
from salver.transport.ports import ModelNames
from salver.transport.routes import HttpTable

with lazy_imports():
    from salver.dialects.openai.faults import openai_fault
    from salver.dialects.openai.model_resolver import ModelResolver, openai_config
    from salver.dialects.openai.operations import OpenAiOperations
    from salver.dialects.openai.resolved_model import ResolvedModel


async def build(kernel: Kernel, config: None) -> Parts:
    """Return OpenAI's routes and the reader of models' templates and tokenizers."""
    attachment = ChatSettingsAttachment()

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
    context, began = kernel.context, int(time.time())

    def http() -> HttpTable:
        return OpenAiOperations(
            kernel.door, kernel.control, resolve, context.server_name, began, context.decoders
        ).table()

    table = HttpTable(OPERATIONS, endpoints_later(http), openai_fault, is_openai, find)
    return Parts(http=[table], additions=Additions(attachments=[attachment]))
