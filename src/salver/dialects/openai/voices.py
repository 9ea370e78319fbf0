"""What OpenAI's routes know of each loaded model.

Chat templates and tokenizers from the files that the server's flags or the model's own configuration name,
and the LoRAs that a model of Triton's vLLM backend lists. :class:`Voices` finds the model that a name
means. It knows no request.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from salver.dialects.openai.chat_template import ChatTemplate, of_tokenizer
from salver.dialects.openai.tools import Parser
from salver.dialects.openai.voice import Spoken, Voice
from salver.kernel.serving.ports import Lessor
from salver.stores.protocol import checked
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, LoadFailed, NotFound
from salver.words.messages import Signature

_MOST_TEMPLATE: Final = 1 << 20
_MOST_CONFIG: Final = 16 << 20
_MOST_TOKENIZER: Final = 256 << 20
_MOST_LIST: Final = 1 << 20


class VoiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How models are spoken to that say nothing of it.

    Attributes:
        template: File of the chat template.
        tokenizer: Folder of a tokenizer, as Hugging Face's libraries write it.
        tools: How models write calls of tools; empty = they write none.
        max_call_bytes: Most text that is kept until it is such a call.
        max_tokens: Of an answer, where the request says nothing.
        lora_separator: Stands between a model's name and that of its LoRA; empty = names have no LoRA.
    """

    template: str = ""
    tokenizer: str = ""
    tools: Parser = ""
    max_call_bytes: int = 1 << 20
    max_tokens: int = 16
    lora_separator: str = ""

    def read(self) -> Voice:
        """With what the files say.

        Raises:
            LoadFailed: a file is missing or wrong, or the package that it needs is not there.
            InvalidInput: a number is out of range.
        """
        if self.max_tokens < 1 or self.max_call_bytes < 1:
            raise InvalidInput("--default-max-tokens and --max-tool-call-parse-bytes must be at least 1")
        template = Path(self.template) if self.template else None
        found = _words(template, Path(self.tokenizer) if self.tokenizer else None)
        return msgspec.structs.replace(found, tools=self.tools)


def voice_of(manifest: Manifest, common: Voice) -> Voice:
    """The voice of one version; what it does not say itself is as the server has it.

    Raises:
        LoadFailed: as of :meth:`VoiceConfig.read`.
    """
    chat = manifest.config.chat
    template = _beside(manifest, chat.template) if chat.template else None
    own = _words(template, _beside(manifest, chat.tokenizer) if chat.tokenizer else None)
    return Voice(
        own.template or common.template,
        own.count or common.count,
        chat.tools or common.tools,
        _loras(_folder(manifest)),
    )


class Speaking(Protocol):
    """A loaded version."""

    signature: Signature


class Voices:
    """Finds whom a name means.

    Args:
        lessor: Knows what is loaded.
        voice_of: The voice of a loaded version.
    """

    def __init__(
        self, config: VoiceConfig, lessor: Lessor[Speaking], voice_of: Callable[[Speaking], Voice]
    ) -> None:
        self._config = config
        self._lessor = lessor
        self._read = voice_of

    def of(self, name: str) -> Spoken:
        """The model, or the model and its LoRA, of that name.

        Raises:
            NotFound: there is none.
            NotReady: it does not answer now.
        """
        try:
            return self._spoken(name, "")
        except NotFound as error:
            unknown = error
        model, lora = self._parts(name)
        try:
            spoken = self._spoken(model, lora)
        except NotFound as error:
            if unknown.message.endswith("is not found"):  # and not of one that failed, with the reason
                raise NotFound(f"Unknown model: {name}", field="model") from error
            raise unknown from None
        loras = spoken.voice.loras
        if loras is not None and lora not in loras:
            raise NotFound(f"Unknown LoRA: {lora}; for model: {name}", field="model")
        return spoken

    def _parts(self, name: str) -> tuple[str, str]:
        separator = self._config.lora_separator
        parts = name.split(separator) if separator else []
        return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else ("", "")

    def _spoken(self, model: str, lora: str) -> Spoken:
        lease = self._lessor.acquire(model)
        try:
            voice = self._read(lease.servable)
        finally:
            lease.release()
        config = self._config
        loras = (voice.loras or ()) if config.lora_separator else ()
        names = (model, *(f"{model}{config.lora_separator}{each}" for each in loras))
        spoken = Spoken(model, voice, lora, names, config.max_tokens, config.max_call_bytes)
        return msgspec.structs.replace(spoken, voice_of=functools.partial(self._voice_of, model))

    def _voice_of(self, model: str, signature: Signature) -> Voice | None:
        lease = self._lessor.other(model, "", lambda servable: servable.signature is signature)
        if lease is None:
            return None
        try:
            return self._read(lease.servable)
        finally:
            lease.release()


def _beside(manifest: Manifest, name: str) -> Path:
    """A file or folder in the version's folder, or else in the model's.

    Raises:
        LoadFailed: the name leads elsewhere; it may come from a request.
    """
    own = _folder(manifest) / checked(name)
    return own if own.exists() else manifest.home / name


def _folder(manifest: Manifest) -> Path:
    """Of the version: programs are folders, others are files in one."""
    return manifest.path if manifest.backend == "python" and manifest.path.is_dir() else manifest.path.parent


def _words(template: Path | None, folder: Path | None) -> Voice:
    """The template, which may be a tokenizer's, and the tokenizer's count."""
    text, tokens, origin = "", dict[str, str](), template
    if folder is not None:
        if not folder.is_dir():
            raise LoadFailed(
                f"{folder} is no folder of a tokenizer",
                fix="Name a local folder with its tokenizer_config.json.",
            )
        if (file := folder / "tokenizer_config.json").exists():
            text, tokens = of_tokenizer(_json(file, _MOST_CONFIG))
        if origin is None and (file := folder / "chat_template.jinja").exists():
            origin = file
    if origin is not None:
        text = _read(origin, _MOST_TEMPLATE, "chat template")
    made = ChatTemplate(text, tokens, str(origin or folder), time.strftime) if text else None
    has_count = folder is not None and (folder / "tokenizer.json").exists()
    return Voice(made, _counter(folder / "tokenizer.json") if folder and has_count else None)


def _counter(file: Path) -> Callable[[str], int]:
    if file.stat().st_size > _MOST_TOKENIZER:
        raise LoadFailed(f"{file} is larger than {_MOST_TOKENIZER} bytes")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise LoadFailed(
            "a tokenizer needs the package 'tokenizers', which is not installed",
            fix="Install it with: pip install 'salver[openai]'",
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # its own kind of exception is the root of all
        raise LoadFailed(f"{file} is no tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _loras(folder: Path) -> tuple[str, ...] | None:
    """As the vLLM backend lists them beside its model.json; None = nothing is said of them."""
    arguments, listed = folder / "model.json", folder / "multi_lora.json"
    try:
        if arguments.is_file():
            enabled = _json(arguments, _MOST_LIST).get("enable_lora", False)
            if str(enabled).lower() != "true":
                return ()
        return tuple(_json(listed, _MOST_LIST)) if listed.is_file() else None
    except LoadFailed:  # a model.json may be anything
        return None


def _json(path: Path, most: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.json.decode(_read(path, most, "file"), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise LoadFailed(f"{path} is no JSON object: {error}") from error
    return found


def _read(path: Path, most: int, what: str) -> str:
    try:
        if path.stat().st_size > most:
            raise LoadFailed(f"the {what} {path} is larger than {most} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise LoadFailed(f"cannot read the {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LoadFailed(f"the {what} {path} is not UTF-8: {error}") from error
