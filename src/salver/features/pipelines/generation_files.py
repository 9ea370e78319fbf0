"""Settings of a directory for making texts: ``generation_config.json``, and what a request changes.

Pure, but for reading the files.
"""

from typing import Any, Final

import msgspec

from salver.features.pipelines.directory import ModelDirectory, Reader
from salver.features.pipelines.parameters import GenerationParameters
from salver.features.pipelines.token_rules import GenerationSettings
from salver.words.errors import InvalidInput, LoadFailed

#: New tokens of a text, if neither the directory nor the request says so, as transformers' pipelines have it.
_NEW_TOKENS: Final = 256
#: What transformers means by "not said".
_UNSAID_LENGTH: Final = 20
#: Most tokens of a text where the network has no limit.
_MOST_TOKENS: Final = 4096


class GenerationConfig(msgspec.Struct, frozen=True):
    """The part of ``generation_config.json`` that Salver reads; None = not said."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    bad_words_ids: list[list[int]] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    lang_to_id: dict[str, int] | None = None
    task_to_id: dict[str, int] | None = None
    no_timestamps_token_id: int | None = None
    max_initial_timestamp_index: int | None = None
    is_multilingual: bool | None = None
    language: str | None = None
    task: str | None = None
    forced_decoder_ids: list[list[int | None]] | None = None
    return_timestamps: bool | str | None = None

    @property
    def start(self) -> int:
        """Token that a text begins with."""
        token = self.decoder_start_token_id
        if token is None:
            token = self.bos_token_id
        if token is None:
            raise LoadFailed(
                "generation_config.json has no decoder_start_token_id", fix="Export the directory again."
            )
        return token


class SeqConfig(msgspec.Struct, frozen=True):
    """The part of ``config.json`` that networks of encoder and decoder have besides.

    Attributes:
        prefix: What goes before each text.
    """

    vocab_size: int | None = None
    d_model: int | None = None
    decoder_attention_heads: int | None = None
    num_heads: int | None = None
    d_kv: int | None = None
    max_position_embeddings: int | None = None
    max_target_positions: int | None = None
    max_source_positions: int | None = None
    prefix: str | None = None
    task_specific_params: dict[str, dict[str, Any]] | None = None

    @property
    def head(self) -> tuple[int, int]:
        """Heads of the decoder and numbers of each; 0 = unknown."""
        heads = self.decoder_attention_heads or self.num_heads or 0
        return heads, self.d_kv or ((self.d_model or 0) // heads if heads else 0)


_GENERATION: Final = Reader(GenerationConfig)
_SEQ: Final = Reader(SeqConfig)
_IDS: Final = (
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
)


def read_seq_config(directory: ModelDirectory) -> SeqConfig:
    """Return what ``config.json`` says. Raises LoadFailed."""
    return _SEQ.read(directory.root / "config.json")


def read_generation(directory: ModelDirectory, config: SeqConfig, task: str) -> tuple[GenerationConfig, str]:
    """Return the settings of a directory for a task, and what goes before each text.

    Args:
        task: Key of ``task_specific_params``, for example ``translation_en_to_de``.

    Raises:
        LoadFailed: a file is broken.
    """
    old = _GENERATION.read(directory.root / "config.json")
    path = directory.root / "generation_config.json"
    said = _GENERATION.read(path) if path.is_file() else old
    missing = {name: getattr(old, name) for name in _IDS if getattr(said, name) is None}
    said = msgspec.structs.replace(said, **missing)
    own = dict((config.task_specific_params or {}).get(task, {}))
    prefix = own.pop("prefix", config.prefix)
    # transformers takes its default of new tokens before this length, and then has no use for it.
    own.pop("max_length", None)
    known = {name: value for name, value in own.items() if name in GenerationConfig.__struct_fields__}
    try:
        said = msgspec.convert({**msgspec.to_builtins(said), **known}, GenerationConfig)
    except msgspec.ValidationError as error:
        raise LoadFailed(f"{directory.root}/config.json: task_specific_params.{task}: {error}") from error
    return said, prefix if isinstance(prefix, str) else ""


def merged(config: GenerationConfig, asked: GenerationParameters) -> GenerationConfig:
    """Return the settings with those of a request. Raises InvalidInput."""
    if asked.do_sample:
        raise InvalidInput(
            "parameters.do_sample: texts are made by search, not by chance",
            field="parameters.do_sample",
            fix="Leave it out, or set num_beams.",
        )
    changed: dict[str, Any] = {
        name: value
        for name in GenerationParameters.__struct_fields__
        if name in GenerationConfig.__struct_fields__ and (value := getattr(asked, name)) is not None
    }
    if asked.max_length is not None and asked.max_new_tokens is None:
        changed["max_new_tokens"] = None
    elif asked.max_new_tokens is not None:
        changed["max_length"] = None
    return msgspec.structs.replace(config, **changed)


def length_of(config: GenerationConfig, prompt: int) -> int:
    """Return the most tokens of a text with its prompt.

    >>> length_of(GenerationConfig(max_new_tokens=5), 1), length_of(GenerationConfig(max_length=9), 1)
    (6, 9)
    """
    if config.max_new_tokens is not None:
        return prompt + config.max_new_tokens
    if config.max_length is not None and config.max_length != _UNSAID_LENGTH:
        return config.max_length
    return prompt + _NEW_TOKENS


def settings_of(
    config: GenerationConfig, prompt: tuple[int, ...], length: int, vocabulary: int, *, beams: int
) -> GenerationSettings:
    """Return how texts are made.

    Args:
        length: Most tokens of a text with its prompt.
        vocabulary: Number of tokens.
        beams: Default of ``num_beams``.

    Raises:
        InvalidInput: a number does not fit the network.
    """
    found = GenerationSettings(
        prompt,
        _several(config.eos_token_id),
        length,
        config.min_length or 0,
        config.min_new_tokens or 0,
        config.num_beams or beams,
        1.0 if config.length_penalty is None else config.length_penalty,
        "never" if config.early_stopping == "never" else bool(config.early_stopping),
        config.no_repeat_ngram_size or 0,
        config.repetition_penalty or 1.0,
        config.forced_bos_token_id,
        next(iter(_several(config.forced_eos_token_id)), None),
        tuple(config.suppress_tokens or ()),
        tuple(config.begin_suppress_tokens or ()),
        tuple(tuple(ids) for ids in config.bad_words_ids or () if ids),
    )
    single = (found.forced_bos_token_id, found.forced_eos_token_id)
    ids = [*found.prompt, *found.ends, *found.suppress_tokens, *found.begin_suppress_tokens]
    ids += [each for each in single if each is not None] + [i for word in found.bad_words_ids for i in word]
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise InvalidInput(
            f"a setting names the token {max(ids)}, and the network has {vocabulary} tokens",
            field="parameters",
            fix="See generation_config.json, and tokens in parameters.",
        )
    return found


def bounded(length: int, most: int | None, field: str = "parameters.max_length") -> int:
    """Return a length that the network can make. Raises InvalidInput."""
    limit = min(most or _MOST_TOKENS, _MOST_TOKENS)
    if length > limit:
        raise InvalidInput(f"{field}: the network makes at most {limit} tokens, not {length}", field=field)
    return length


def _several(ids: int | list[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (ids,)
