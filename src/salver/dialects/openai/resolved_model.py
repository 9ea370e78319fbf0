"""Records of what OpenAI's routes need of a model beyond its tensors. Pure."""

from collections.abc import Callable

import msgspec

from salver.dialects.openai.tools import Parser
from salver.lazy import lazy_imports
from salver.words.messages import Signature

with lazy_imports():
    from salver.dialects.openai.chat_template import ChatTemplate


class ChatSettings(msgspec.Struct, frozen=True):
    """Chat template, tokenizer and LoRAs of one version.

    Attributes:
        template: Turns messages into prompts; None = none.
        count: Counts the tokens of a text, slowly if it is long; None = unknown.
        tools: How the model writes tool calls; empty = unknown.
        loras: Names of its LoRAs; None = unknown, so that any name is accepted.
    """

    template: ChatTemplate | None = None
    count: Callable[[str], int] | None = None
    tools: Parser = ""
    loras: tuple[str, ...] | None = None


class ResolvedModel(msgspec.Struct, frozen=True):
    """Model that the name in a request stands for.

    Attributes:
        model: The model's own name.
        lora: LoRA that the name includes; empty = none.
        names: All its names, its own first.
        max_tokens: Limit of an answer if the request gives none.
        max_call_bytes: Limit of the text held back as a possible tool call.
        settings_of: Returns the settings of the version with this signature, which differs during a
            release; None = one version only.
    """

    model: str
    settings: ChatSettings = ChatSettings()
    lora: str = ""
    names: tuple[str, ...] = ()
    max_tokens: int = 16
    max_call_bytes: int = 1 << 20
    settings_of: Callable[[Signature], ChatSettings | None] | None = None

    def for_version(self, signature: Signature) -> "ResolvedModel":
        """Return a copy with the settings of the version that has this signature."""
        settings = self.settings_of and self.settings_of(signature)
        if settings is None or settings is self.settings:
            return self
        return msgspec.structs.replace(self, settings=settings)
