"""Models by the names in requests, and their chat settings from files.

Chat templates and tokenizers come from files that the server's flags or the model's configuration name,
LoRAs from the list beside a model of Triton's vLLM backend.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from salver.configuration import ServeConfig
from salver.dialects.openai.resolved_model import ChatSettings, ResolvedModel
from salver.dialects.openai.tools import Parser
from salver.kernel.serving.ports import Lessor
from salver.lazy import lazy_imports
from salver.stores.protocol import checked
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, LoadFailed, NotFound
from salver.words.messages import Signature

with lazy_imports():
    from salver.dialects.openai.chat_template import ChatTemplate, of_tokenizer


_MOST_TEMPLATE: Final = 1 << 20
_MOST_CONFIG: Final = 16 << 20
_MOST_TOKENIZER: Final = 256 << 20
_MOST_LIST: Final = 1 << 20


class OpenAiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Chat settings of models that have none of their own.

    Attributes:
        template: File of the chat template.
        tokenizer: Folder of a tokenizer, as written by Hugging Face's libraries.
        tools: How models write tool calls; empty = they write none.
        max_call_bytes: Limit of the text held back as a possible tool call.
        max_tokens: Limit of an answer if the request gives none.
        lora_separator: Separates a model's name from its LoRA's; empty = names include no LoRA.
    """

    template: str = ""
    tokenizer: str = ""
    tools: Parser = ""
    max_call_bytes: int = 1 << 20
    max_tokens: int = 16
    lora_separator: str = ""

    def read(self) -> ChatSettings:
        """Read the files.

        Raises:
            LoadFailed: A file is missing or invalid, or a package that it needs is not installed.
            InvalidInput: A number is out of range.
        """
        if self.max_tokens < 1 or self.max_call_bytes < 1:
            raise InvalidInput("--default-max-tokens and --max-tool-call-parse-bytes must be at least 1")
        found = _read_settings(_path(self.template), _path(self.tokenizer))
        return msgspec.structs.replace(found, tools=self.tools)


def openai_config(config: ServeConfig) -> OpenAiConfig:
    """Return the table of a server's configuration. Raises InvalidInput."""
    return config.table("openai", OpenAiConfig)


def settings_of(manifest: Manifest, common: ChatSettings) -> ChatSettings:
    """Return the settings of one version, completed from those of the server.

    Raises:
        LoadFailed: See :meth:`OpenAiConfig.read`.
    """
    chat = manifest.config.chat
    own = _read_settings(_find(manifest, chat.template), _find(manifest, chat.tokenizer))
    return ChatSettings(
        own.template or common.template,
        own.count or common.count,
        chat.tools or common.tools,
        _loras(_folder(manifest)),
    )


class LoadedVersion(Protocol):
    """Loaded version with its signature."""

    signature: Signature


class ModelResolver:
    """Finds the model and the LoRA that a name stands for.

    Args:
        lessor: Leases loaded versions.
        settings_of: Returns the settings of a loaded version.
    """

    def __init__(
        self,
        config: OpenAiConfig,
        lessor: Lessor[LoadedVersion],
        settings_of: Callable[[LoadedVersion], ChatSettings],
    ) -> None:
        self._config = config
        self._lessor = lessor
        self._read = settings_of

    def of(self, name: str) -> ResolvedModel:
        """Return the model, perhaps with a LoRA, of that name.

        Raises:
            NotFound: There is none.
            NotReady: It cannot answer now.
        """
        try:
            return self._resolved(name, "")
        except NotFound as error:
            unknown = error
        model, lora = self._parts(name)
        try:
            resolved = self._resolved(model, lora)
        except NotFound as error:
            if unknown.message.endswith("is not found"):  # else it failed to load, and the text says why
                raise NotFound(f"Unknown model: {name}", field="model") from error
            raise unknown from None
        loras = resolved.settings.loras
        if loras is not None and lora not in loras:
            raise NotFound(f"Unknown LoRA: {lora}; for model: {name}", field="model")
        return resolved

    def _parts(self, name: str) -> tuple[str, str]:
        separator = self._config.lora_separator
        if not separator or name.count(separator) != 1:
            return "", ""
        model, _, lora = name.partition(separator)
        return (model, lora) if model and lora else ("", "")

    def _resolved(self, model: str, lora: str) -> ResolvedModel:
        lease = self._lessor.acquire(model)
        try:
            settings = self._read(lease.servable)
        finally:
            lease.release()
        config = self._config
        names = [model]
        if config.lora_separator:
            names += [f"{model}{config.lora_separator}{each}" for each in settings.loras or ()]
        return ResolvedModel(
            model,
            settings,
            lora,
            tuple(names),
            config.max_tokens,
            config.max_call_bytes,
            functools.partial(self._settings_of, model),
        )

    def _settings_of(self, model: str, signature: Signature) -> ChatSettings | None:
        lease = self._lessor.other(model, "", lambda servable: servable.signature is signature)
        if lease is None:
            return None
        try:
            return self._read(lease.servable)
        finally:
            lease.release()


def _path(name: str) -> Path | None:
    return Path(name) if name else None


def _find(manifest: Manifest, name: str) -> Path | None:
    """Return a file or folder of the version or else of the model; None without a name.

    Raises:
        LoadFailed: The name leads elsewhere; it may come from a request.
    """
    if not name:
        return None
    own = _folder(manifest) / checked(name)
    return own if own.exists() else manifest.home / name


def _folder(manifest: Manifest) -> Path:
    """Return the folder of a version: its path for a program, the parent of a file otherwise."""
    if manifest.backend == "python" and manifest.path.is_dir():
        return manifest.path
    return manifest.path.parent


def _read_settings(template: Path | None, folder: Path | None) -> ChatSettings:
    """Return the template, which may be the tokenizer's, and the tokenizer's count."""
    text, tokens, origin = "", dict[str, str](), template
    if folder is not None:
        if not folder.is_dir():
            raise LoadFailed(
                f"{folder} is not a tokenizer's folder",
                fix="Name a local folder with its tokenizer_config.json.",
            )
        if (file := folder / "tokenizer_config.json").exists():
            text, tokens = of_tokenizer(_json(file, _MOST_CONFIG))
        if origin is None and (file := folder / "chat_template.jinja").exists():
            origin = file
    if origin is not None:
        text = _read(origin, _MOST_TEMPLATE, "chat template")
    compiled, count = None, None
    if text:
        compiled = ChatTemplate(text, tokens, str(origin or folder), time.strftime)
    if folder is not None and (file := folder / "tokenizer.json").exists():
        count = _counter(file)
    return ChatSettings(compiled, count)


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
    except Exception as error:  # tokenizers raises Exception itself
        raise LoadFailed(f"{file} is not a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _loras(folder: Path) -> tuple[str, ...] | None:
    """Return the LoRAs that the vLLM backend lists beside its model.json; None = no list."""
    arguments, listed = folder / "model.json", folder / "multi_lora.json"
    try:
        if arguments.is_file():
            enabled = _json(arguments, _MOST_LIST).get("enable_lora", False)
            if str(enabled).lower() != "true":
                return ()
        if listed.is_file():
            return tuple(_json(listed, _MOST_LIST))
        return None
    except LoadFailed:  # a model.json may be anything
        return None


def _json(path: Path, most: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.json.decode(_read(path, most, "file"), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise LoadFailed(f"{path} is not a JSON object: {error}") from error
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
