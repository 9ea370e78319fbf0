"""What OpenAI's routes need to know of a model, beyond its tensors.

The records between those who read an owner's files and OpenAI's codecs: chat template, tokenizer, LoRAs.

Pure.
"""

from collections.abc import Callable

import msgspec

from salver.dialects.openai.chat_template import ChatTemplate
from salver.dialects.openai.tools import Parser
from salver.words.messages import Signature


class Voice(msgspec.Struct, frozen=True):
    """Of one version.

    Attributes:
        template: Makes its prompts of messages; None = there is none.
        count: Tokens of a text; None = nobody can tell. Takes its time for long ones.
        tools: How it writes calls of tools; empty = not known.
        loras: Names of its LoRAs; None = not known, so that any may be asked for.
    """

    template: ChatTemplate | None = None
    count: Callable[[str], int] | None = None
    tools: Parser = ""
    loras: tuple[str, ...] | None = None


class Spoken(msgspec.Struct, frozen=True):
    """Whom a caller of OpenAI's routes means, and on what terms.

    Attributes:
        model: The model's own name.
        lora: The LoRA that was named with it; empty = none.
        names: All under which it may be asked, its own first.
        max_tokens: Of an answer, where the request says nothing.
        max_call_bytes: Most text that is kept until it is a tool's call.
        voice_of: The voice of the version that has this signature, which may be another one of a model in a
            release; None = nobody knows.
    """

    model: str
    voice: Voice = Voice()
    lora: str = ""
    names: tuple[str, ...] = ()
    max_tokens: int = 16
    max_call_bytes: int = 1 << 20
    voice_of: Callable[[Signature], Voice | None] | None = None

    def by(self, signature: Signature) -> "Spoken":
        """The same, as the version that has this signature is spoken to."""
        voice = None if self.voice_of is None else self.voice_of(signature)
        return self if voice is None or voice is self.voice else msgspec.structs.replace(self, voice=voice)
