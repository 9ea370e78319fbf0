"""What do the flags of Triton's OpenAI front end ask of ``salver serve --compat triton`` (TR-V7)?

There it is a program of its own, ``openai_frontend/main.py``; here its flags go with tritonserver's. Pure.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol

from salver.dialects.triton.flags import OPENAI
from salver.words.errors import InvalidInput

if TYPE_CHECKING:
    from salver.dialects.openai.voices import VoiceConfig
    from salver.transport.restrict import Restriction

_PARSERS: Final[dict[str, Literal["", "llama3", "mistral"]]] = {
    "": "",
    "llama3": "llama3",
    "mistral": "mistral",
}
#: Its flag -> tritonserver's for the same.
_ALIASES: Final = {
    "kserve-http-port": ("http-port",),
    "kserve-grpc-port": ("grpc-port",),
    "tritonserver-log-verbose-level": ("log-verbose",),
    "host": ("http-address", "grpc-address"),
}
#: Ports that it does not open by itself, and what of tritonserver's flags asks for each.
_OTHERS: Final = {
    "http": ("allow-http", "http-port", "http-address", "reuse-http-port"),
    "grpc": ("allow-grpc", "grpc-port", "grpc-address", "reuse-grpc-port"),
    "metrics": ("allow-metrics", "metrics-port", "metrics-address"),
}


class Flags(Protocol):
    """The flags of a command line."""

    def __contains__(self, name: str) -> bool: ...

    def all(self, name: str) -> tuple[str, ...]:
        """Each value of one that may be repeated."""
        ...

    def text(self, name: str, default: str = "") -> str:
        """Its last value."""
        ...

    def is_on(self, name: str, default: bool) -> bool:
        """Of one that is true or false."""
        ...


def is_front(given: Flags) -> bool:
    """Is its port to be opened? So it is where one of its flags is given."""
    return given.is_on("allow-openai", any(name in given for name in OPENAI))


def words_of(given: Flags) -> list[str]:
    """The words of tritonserver's command line that its flags stand for.

    Without ``--enable-kserve-frontends`` its port is the only one, unless others are asked for, or it is by
    ``--allow-openai``, which is none of its flags.
    """
    if not is_front(given):
        return []
    words = [
        f"--{name}={given.text(flag)}" for flag, names in _ALIASES.items() if flag in given for name in names
    ]
    if "allow-openai" not in given and not given.is_on("enable-kserve-frontends", False):
        words += [
            f"--allow-{port}=false" for port, flags in _OTHERS.items() if not any(f in given for f in flags)
        ]
    return words


def voice(given: Flags) -> "VoiceConfig":
    """How models are spoken to.

    Raises:
        InvalidInput: there is no such parser of calls.
    """
    from salver.dialects.openai.voices import VoiceConfig

    parser = given.text("tool-call-parser")
    if parser not in _PARSERS:
        raise InvalidInput(f"--tool-call-parser {parser!r} is not known", fix="One of llama3, mistral.")
    return VoiceConfig(
        given.text("chat-template"),
        given.text("tokenizer"),
        _PARSERS[parser],
        int(given.text("max-tool-call-parse-bytes", str(VoiceConfig().max_call_bytes))),
        int(given.text("default-max-tokens", str(VoiceConfig().max_tokens))),
        given.text("lora-separator"),
    )


def restrictions(values: Sequence[str]) -> "list[Restriction]":
    """Of ``--openai-restricted-api GROUP,GROUP HEADER VALUE``, each value being three lines.

    Raises:
        InvalidInput: there is no such group.
    """
    from salver.transport.restrict import parse_openai

    found = []
    for value in values:
        groups, header, secret = value.split("\n")
        found.append(parse_openai(groups, header, secret, "--openai-restricted-api"))
    return found
