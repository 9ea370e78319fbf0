"""Flags of Triton's OpenAI front end under ``salver serve --compat triton`` (TR-V7). Pure.

Triton's front end is a program of its own, ``openai_frontend/main.py``; here its flags are options beside
tritonserver's.
"""

from collections.abc import Sequence
from typing import Final

from salver.dialects.triton.flags import OPENAI
from salver.terminal.server_flags import ParsedFlags
from salver.transport.restrict import Restriction, parse_openai
from salver.words.errors import InvalidInput

_PARSERS: Final = ("", "llama3", "mistral")
#: Keys of the table ``openai`` and their flags.
_TEXTS: Final = {
    "template": "chat-template",
    "tokenizer": "tokenizer",
    "tools": "tool-call-parser",
    "lora_separator": "lora-separator",
}
_NUMBERS: Final = {"max_call_bytes": "max-tool-call-parse-bytes", "max_tokens": "default-max-tokens"}
#: Flags of the front end -> tritonserver's for the same.
_ALIASES: Final = {
    "kserve-http-port": ("http-port",),
    "kserve-grpc-port": ("grpc-port",),
    "tritonserver-log-verbose-level": ("log-verbose",),
    "host": ("http-address", "grpc-address"),
}
#: Ports that the front end does not open, with tritonserver's flags that open each.
_OTHERS: Final = {
    "http": ("allow-http", "http-port", "http-address", "reuse-http-port"),
    "grpc": ("allow-grpc", "grpc-port", "grpc-address", "reuse-grpc-port"),
    "metrics": ("allow-metrics", "metrics-port", "metrics-address"),
}


def is_front(given: ParsedFlags) -> bool:
    """Return whether to open the front end's port: one of its flags is given."""
    return given.is_on("allow-openai", any(name in given for name in OPENAI))


def words_of(given: ParsedFlags) -> list[str]:
    """Return tritonserver's flags that those of the front end stand for.

    Without ``--enable-kserve-frontends`` its port is the only one, unless a flag opens another, or
    ``--allow-openai``, which the front end does not have, opens this one.
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


def table(given: ParsedFlags) -> dict[str, object]:
    """Return the table ``openai`` of the configuration.

    Raises:
        InvalidInput: The parser of tool calls is unknown.
    """
    parser = given.text("tool-call-parser")
    if parser not in _PARSERS:
        raise InvalidInput(f"--tool-call-parser {parser!r} is not known", fix="One of llama3, mistral.")
    texts = {key: given.text(flag) for key, flag in _TEXTS.items() if flag in given}
    numbers = {key: given.number(flag, 0) for key, flag in _NUMBERS.items() if flag in given}
    return {**texts, **numbers}


def restrictions(values: Sequence[str]) -> list[Restriction]:
    """Return the restrictions of ``--openai-restricted-api GROUP,GROUP HEADER VALUE``.

    Args:
        values: Three lines each: groups, header, value.

    Raises:
        InvalidInput: There is no such group.
    """
    found = []
    for value in values:
        groups, header, secret = value.split("\n")
        found.append(parse_openai(groups, header, secret, "--openai-restricted-api"))
    return found
