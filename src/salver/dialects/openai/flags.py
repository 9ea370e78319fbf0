"""Flags of OpenAI's routes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Generation:
    """Flags of OpenAI's routes, for models that do not configure it themselves."""

    template: Annotated[
        str,
        Parameter(
            name="--chat-template",
            help="Jinja file of the template that turns messages into a prompt.",
        ),
    ] = ""
    tokenizer: Annotated[
        str,
        Parameter(
            name="--tokenizer",
            help="Local folder with tokenizer_config.json (chat template) and tokenizer.json (token counts).",
        ),
    ] = ""
    tools: Annotated[
        Literal["", "llama3", "mistral"],
        Parameter(name="--tool-call-parser", help="Syntax of tool calls in answers; '' = no tool calls."),
    ] = ""
    max_call_bytes: Annotated[
        int,
        Parameter(
            name="--max-tool-call-parse-bytes",
            help="Bytes of text held back as a possible tool call, at most.",
        ),
    ] = 1 << 20
    max_tokens: Annotated[
        int,
        Parameter(
            name="--default-max-tokens", help="Most tokens in an answer, if the request sets no limit."
        ),
    ] = 16
    lora_separator: Annotated[
        str,
        Parameter(
            name="--lora-separator",
            help="Separator between the name of a model and of a LoRA; '' = names have no LoRA.",
        ),
    ] = ""
