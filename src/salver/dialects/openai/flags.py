"""Flags of OpenAI's routes."""

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Speech:
    """Flags of OpenAI's routes, for models that say nothing of it themselves."""

    template: Annotated[
        str, Parameter(name="--chat-template", help="Jinja file that makes prompts of messages.")
    ] = ""
    tokenizer: Annotated[
        str,
        Parameter(
            name="--tokenizer",
            help="Local folder with tokenizer_config.json (its chat template) and tokenizer.json (counts).",
        ),
    ] = ""
    tools: Annotated[
        Literal["", "llama3", "mistral"],
        Parameter(name="--tool-call-parser", help="How models write calls of tools; '' = they write none."),
    ] = ""
    max_call_bytes: Annotated[
        int,
        Parameter(name="--max-tool-call-parse-bytes", help="Most text that is kept until it is a call."),
    ] = 1 << 20
    max_tokens: Annotated[
        int,
        Parameter(name="--default-max-tokens", help="Tokens of an answer, where the request says nothing."),
    ] = 16
    lora_separator: Annotated[
        str,
        Parameter(
            name="--lora-separator",
            help="Stands between a model's name and a LoRA's; '' = names have no LoRA.",
        ),
    ] = ""

    def table(self) -> dict[str, object]:
        """Return the table ``openai`` of the configuration."""
        return asdict(self)
