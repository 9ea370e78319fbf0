"""Parts of OpenAI's API."""

import asyncio
import time

from salver.dialects.openai.loading import VoiceAttachment
from salver.dialects.openai.operations import OpenAiOperations
from salver.dialects.openai.voices import VoiceConfig, Voices
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts
from salver.transport.ports import ModelNames


async def build(kernel: Kernel, config: None) -> Parts:
    """Return OpenAI's routes, and what reads the templates and tokenizers of models."""
    voice = kernel.config.table("openai", VoiceConfig)
    attachment = VoiceAttachment(await asyncio.to_thread(voice.read))
    voices = Voices(voice, kernel.models, attachment.of)
    kernel.services.offer(ModelNames, voices)
    context, began = kernel.context, int(time.time())
    routes = OpenAiOperations(
        kernel.door, kernel.control, voices.of, context.server_name, began, context.decoders
    )
    return Parts(http=[routes.table()], additions=Additions(attachments=[attachment]))
