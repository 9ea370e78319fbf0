"""Parts of OpenAI's API."""

import asyncio
import time

from salver.dialects.openai.loading import ChatSettingsAttachment
from salver.dialects.openai.model_resolver import ModelResolver, OpenAiConfig
from salver.dialects.openai.operations import OpenAiOperations
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts
from salver.transport.ports import ModelNames


async def build(kernel: Kernel, config: None) -> Parts:
    """Return OpenAI's routes and the reader of models' templates and tokenizers."""
    settings = kernel.config.table("openai", OpenAiConfig)
    attachment = ChatSettingsAttachment(await asyncio.to_thread(settings.read))
    resolver = ModelResolver(settings, kernel.models, attachment.of)
    kernel.services.offer(ModelNames, resolver)
    context, began = kernel.context, int(time.time())
    routes = OpenAiOperations(
        kernel.door, kernel.control, resolver.of, context.server_name, began, context.decoders
    )
    return Parts(http=[routes.table()], additions=Additions(attachments=[attachment]))
