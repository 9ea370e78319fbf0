"""Chat templates: Jinja programs of a model's owner that turn a conversation into a prompt.

They have the names and filters of Hugging Face's tokenizers and run in Jinja's sandbox, which shows them
the messages and nothing else. Jinja is an extra. Pure.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from salver.words.errors import InvalidInput, LoadFailed

_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: Marks the assistant's text for training; without effect here.
_GENERATION: Final = re.compile(r"({%[-+]?\s*)(end)?generation(\s*[-+]?%})")
_NO_TOKENS: Final[Mapping[str, str]] = {}


class ChatTemplate:
    """Compiled chat template.

    Args:
        text: The program.
        tokens: Special tokens by their names in the program, such as ``bos_token``.
        origin: Source for error messages.
        today: Formats the current time, as ``time.strftime`` does.

    Raises:
        LoadFailed: The text is no template, or Jinja is not installed.

    >>> ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}").render(
    ...     [{"role": "user", "content": "Hello"}])
    'user: Hello'
    """

    def __init__(
        self,
        text: str,
        tokens: Mapping[str, str] = _NO_TOKENS,
        origin: str = "the chat template",
        today: Callable[[str], str] = str,
    ) -> None:
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise LoadFailed(
                "a chat template needs the package 'jinja2', which is not installed",
                fix="Install it with: pip install 'salver[openai]'",
            ) from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = today
        try:
            self._template = environment.from_string(_GENERATION.sub(_as_condition, text))
        except TemplateError as error:
            raise LoadFailed(f"{origin} is not a chat template: {error}") from error
        self._tokens = dict(tokens)
        self._origin = origin

    def __repr__(self) -> str:
        return f"<ChatTemplate of {self._origin}>"

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """Return the prompt.

        Raises:
            InvalidInput: The template does not take these messages.
        """
        try:
            text: str = self._template.render(
                **self._tokens, messages=messages, tools=tools, documents=None, add_generation_prompt=True
            )
        except Exception as error:  # a foreign program may raise anything
            why = f"{error}" or type(error).__name__
            raise InvalidInput(
                f"the model's chat template does not take these messages: {why[:500]}", field="messages"
            ) from error
        return text


def of_tokenizer(config: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return template (empty = none) and special tokens of a ``tokenizer_config.json``.

    >>> of_tokenizer({"chat_template": "{{ bos_token }}", "bos_token": {"content": "<s>"}})
    ('{{ bos_token }}', {'bos_token': '<s>'})
    """
    tokens = {}
    for name in _SPECIAL:
        token = config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            tokens[name] = token
    template = config.get("chat_template", "")
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default", "")
    if not isinstance(template, str):
        template = ""
    return template, tokens


def _as_condition(mark: re.Match[str]) -> str:
    return f"{mark[1]}{'endif' if mark[2] else 'if true'}{mark[3]}"


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """Write JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)
