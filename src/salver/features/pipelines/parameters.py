"""Parameters of requests to pipelines, as transformers' pipelines and their servers have them.

Pure.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from salver.words.errors import InvalidInput
from salver.words.messages import Parameter

_Record = TypeVar("_Record", bound=msgspec.Struct)
#: Other names that users send for a parameter.
ALIASES: Final = {
    "candidateLabels": "candidate_labels",
    "truncate": "truncation",
    "dimensions": "truncate_dim",
    "normalize": "normalize_embeddings",
    "topk": "top_k",
    "multi_class": "multi_label",
}
#: Least values of parameters that are numbers.
_LEAST: Final = {
    "top_k": 1,
    "truncate_dim": 1,
    "max_answer_len": 1,
    "max_seq_len": 1,
    "stride": 0,
    "doc_stride": 0,
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "forced_bos_token_id": 0,
}
#: Largest values, where they are others than the usual one.
_GREATEST: Final = {"num_beams": 16}
#: Objects that hold parameters of ``generate()`` in requests of transformers' users.
_NESTED: Final = ("generate_kwargs", "generation_parameters", "generate")
_MOST: Final = 1_000_000


class Truncating(msgspec.Struct, frozen=True):
    """Parameters of every task.

    Attributes:
        truncation: Cut texts at what the network takes; else a longer one is refused.
    """

    truncation: bool = True


class ClassParameters(Truncating, frozen=True):
    """Parameters of text classification.

    Attributes:
        top_k: Best labels to return, None = all; unset = the best one, without a list around it.
        function_to_apply: Function from the network's outputs to scores; None = by the configuration.
    """

    top_k: int | msgspec.UnsetType | None = msgspec.UNSET
    function_to_apply: Literal["none", "sigmoid", "softmax", "default"] | None = None


class TokenParameters(Truncating, frozen=True):
    """Parameters of token classification.

    Attributes:
        ignore_labels: Labels that are left out of the answer.
        stride: Tokens by which windows of a long text overlap; None = it is cut.
    """

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    ignore_labels: tuple[str, ...] = ("O",)
    stride: int | None = None


class EmbeddingParameters(Truncating, frozen=True):
    """Parameters of sentence embeddings.

    Attributes:
        prompt_name: Prompt of the model's configuration to put before each text; unset = the default one.
        prompt: The prompt itself.
        truncate_dim: Leading numbers of each embedding to return; None = all.
        normalize_embeddings: Scale to length 1, also if the model does not.
    """

    prompt_name: str | msgspec.UnsetType | None = msgspec.UNSET
    prompt: str | None = None
    truncate_dim: int | None = None
    normalize_embeddings: bool = False


class RankParameters(Truncating, frozen=True):
    """Parameters of re-ranking; ``raw_scores`` leaves out the activation."""

    raw_scores: bool = False


class ZeroShotParameters(Truncating, frozen=True):
    """Parameters of zero-shot classification; labels are a list, or separated by commas."""

    candidate_labels: list[str] | str = ""
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False


class TokenizerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the tokenizer in a request for fill-mask."""

    truncation: bool = True


class MaskParameters(Truncating, frozen=True):
    """Parameters of fill-mask; ``targets`` are the only tokens to score."""

    top_k: int = 5
    targets: list[str] | str | None = None
    tokenizer_kwargs: TokenizerSettings = TokenizerSettings()


class AnswerParameters(Truncating, frozen=True):
    """Parameters of question answering; lengths are in tokens."""

    top_k: int = 1
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class ImageClassParameters(msgspec.Struct, frozen=True):
    """Parameters of image classification, as :class:`ClassParameters`; ``top_k`` is 5 if it is None."""

    top_k: int | None = None
    function_to_apply: Literal["none", "sigmoid", "softmax"] | None = None


class DetectionParameters(msgspec.Struct, frozen=True):
    """Parameters of object detection; only objects with a higher score than ``threshold`` are returned."""

    threshold: float = 0.5


class GenerationParameters(Truncating, frozen=True):
    """Parameters of tasks that make texts, with the names and meanings of ``generate()``; None = not said."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    forced_bos_token_id: int | None = None
    do_sample: bool = False


class TranslationParameters(GenerationParameters, frozen=True):
    """Parameters of translation; languages are tokens of the model, such as ``eng_Latn``."""

    src_lang: str | None = None
    tgt_lang: str | None = None


class SpeechParameters(GenerationParameters, frozen=True):
    """Parameters of speech recognition.

    Attributes:
        return_timestamps: Times of parts: ``true`` for Whisper, ``char`` or ``word`` for networks with CTC.
        chunk_length_s: Seconds of a piece, in which networks with CTC hear a long sound; Whisper always
            hears 30 s at a time.
        stride_length_s: Seconds by which pieces overlap on both sides, or on the left and on the right.
        language: Language that is spoken, which Whisper otherwise finds out.
        task: ``transcribe`` or ``translate``, into English.
        prompt: Text that Whisper takes for what was said before: names and spellings.
    """

    return_timestamps: bool | Literal["char", "word"] = False
    chunk_length_s: float | None = None
    stride_length_s: float | tuple[float, float] | None = None
    language: str | None = None
    task: str | None = None
    prompt: str | None = None


#: Records by task.
PARAMETERS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "text-classification": ClassParameters,
    "token-classification": TokenParameters,
    "sentence-embeddings": EmbeddingParameters,
    "feature-extraction": Truncating,
    "text-ranking": RankParameters,
    "zero-shot-classification": ZeroShotParameters,
    "fill-mask": MaskParameters,
    "question-answering": AnswerParameters,
    "image-classification": ImageClassParameters,
    "object-detection": DetectionParameters,
    "automatic-speech-recognition": SpeechParameters,
    "summarization": GenerationParameters,
    "text2text-generation": GenerationParameters,
    "translation": TranslationParameters,
}
#: What msgspec knows of a class it finds out at its first use, in which two threads must not meet.
_FOUND_OUT: Final = [msgspec.json.Decoder(kind) for kind in PARAMETERS.values()]


def plain_names(given: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return parameters by the names that transformers has.

    Raises:
        InvalidInput: one is unknown; the text names the nearest.
    """
    known = kind.__struct_fields__
    plain = {}
    if "num_beams" in known:
        for nested in _NESTED:
            if isinstance(inner := given.get(nested), Mapping):
                given = {**{name: given[name] for name in given if name != nested}, **inner}
    for name, value in given.items():
        own = ALIASES.get(name, name)
        if own not in known:
            near = difflib.get_close_matches(name[:100], known, 1)
            raise InvalidInput(
                f"parameters.{name[:100]} is unknown to this task",
                field=f"parameters.{name[:100]}",
                fix=f"Did you mean {near[0]}?" if near else f"It has: {', '.join(known)}.",
            )
        plain[own] = value
    return plain


def from_json(given: Mapping[str, Any], kind: type[_Record]) -> _Record:
    """Return parameters in a request's JSON as a record.

    Raises:
        InvalidInput: one is unknown or of the wrong type.
    """
    if not given:
        return kind()
    plain = plain_names(given, kind)
    try:
        found = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        field = f"parameters.{path.removesuffix('`')}"
        raise InvalidInput(f"{field}: {text}", field=field, fix=_kinds(kind, path)) from error
    for name, least in _LEAST.items():
        value = getattr(found, name, None)
        most = _GREATEST.get(name, _MOST)
        if type(value) is int and not least <= value <= most:
            field = f"parameters.{name}"
            raise InvalidInput(f"{field} must be from {least} to {most}, not {value}", field=field)
    return found


def to_request(given: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return parameters for a request, whose parameters are single values: lists and null become JSON."""
    return {
        name: value if isinstance(value, bool | int | float) else msgspec.json.encode(value).decode()
        for name, value in given.items()
    }


def from_request(given: Mapping[str, Parameter], kind: type[_Record]) -> _Record:
    """Return the parameters of a request that a task knows; others are the protocol's.

    Raises:
        InvalidInput: one is of the wrong type.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        own = ALIASES.get(name, name)
        if own in kind.__struct_fields__:
            found[own] = _value(value) if isinstance(value, str) else value
    return from_json(found, kind)


def _value(text: str) -> Any:
    """Return the value of a parameter: JSON if it looks like it, else the text."""
    if text[:1] in ("[", "{", '"') or text in ("null", "true", "false"):
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return text
    return text


def _kinds(kind: type[msgspec.Struct], path: str) -> str:
    name = path.removesuffix("`").partition(".")[0].partition("[")[0]
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    if name not in fields:
        return ""
    return f"{name} is {_shown(fields[name].type)}."


def _shown(kind: Any) -> str:
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        type(None): "null",
    }
    if kind in words:
        return words[kind]
    arguments = getattr(kind, "__args__", ())
    if getattr(kind, "__origin__", None) in (list, tuple):
        return "a list of texts"
    if getattr(kind, "__origin__", None) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if kind is TokenizerSettings:
        return 'an object, {"truncation": true or false}'
    return " or ".join(_shown(each) for each in arguments if each is not msgspec.UnsetType)
