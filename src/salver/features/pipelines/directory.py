"""Hugging Face directories: what their files say, without transformers.

Reads JSON only, each file up to a limit; runs and imports nothing that a file names.
"""

import re
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from salver.backends.content import head
from salver.backends.installed import is_installed
from salver.features.pipelines.names import FIXES, OF_IMAGES, OF_SEQUENCES, OF_SOUNDS, SUFFIXES, SUPPORTED
from salver.words.errors import LoadFailed

_MOST: Final = 16 << 20  # bytes of a JSON file; label lists of large classifiers take some megabytes
_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
_NO_LIMIT: Final = 1_000_000  # transformers writes 1e30 for tokenizers without a limit
_TAG: Final = re.compile(r"^pipeline_tag:[ \t]*['\"]?([a-z0-9-]+)", re.MULTILINE)
#: Models whose positions begin after the padding token's.
_SHIFTED: Final = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "longformer", "mpnet")
)
_Record = TypeVar("_Record")


class Config(msgspec.Struct, frozen=True):
    """The part of ``config.json`` that Salver reads."""

    model_type: str = ""
    architectures: list[str] | None = None
    id2label: dict[str, str] | None = None
    label2id: dict[str, int] | None = None
    num_labels: int | None = None
    problem_type: str | None = None
    max_position_embeddings: int | None = None
    pad_token_id: int | None = None
    function_to_apply: str | None = None
    sentence_transformers: dict[str, Any] | None = None
    sbert_ce_default_activation_function: str | None = None

    @property
    def architecture(self) -> str:
        """Class of the model, for example ``BertForTokenClassification``; may be empty."""
        return (self.architectures or [""])[0]

    @property
    def activation(self) -> str:
        """Class of the function that a cross-encoder applies to its scores; empty = not said."""
        said = (self.sentence_transformers or {}).get("activation_fn")
        if isinstance(said, str):
            return said
        return self.sbert_ce_default_activation_function or ""


class TokenizerConfig(msgspec.Struct, frozen=True):
    """The part of ``tokenizer_config.json`` that Salver reads."""

    model_max_length: float | None = None
    padding_side: str = "right"
    truncation_side: str = "right"
    pad_token: Any = None
    unk_token: Any = None
    mask_token: Any = None
    cls_token: Any = None
    sep_token: Any = None
    bos_token: Any = None
    eos_token: Any = None
    additional_special_tokens: Any = None
    extra_special_tokens: Any = None

    @property
    def specials(self) -> list[str]:
        """Texts of all special tokens that the file names."""
        names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
        found = [self.token(f"{name}_token") for name in names]
        for more in (self.additional_special_tokens, self.extra_special_tokens):
            if isinstance(more, dict):
                found += map(_content, more.values())
            elif isinstance(more, list):
                found += map(_content, more)
        return [token for token in found if token]

    def token(self, name: str) -> str:
        """Return a special token's text, which a file gives as a string or as a record; empty = none."""
        return _content(getattr(self, name))


def _content(token: Any) -> str:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else ""


class Module(msgspec.Struct, frozen=True):
    """A step in ``modules.json`` of sentence-transformers; its class ``type`` is never imported."""

    type: str = ""
    path: str = ""

    @property
    def kind(self) -> str:
        """Name of the class."""
        return self.type.rpartition(".")[2]


class SentenceConfig(msgspec.Struct, frozen=True):
    """The parts of sentence-transformers' two files of settings that Salver reads."""

    model_type: str | None = None
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False


class ModelDirectory(msgspec.Struct, frozen=True):
    """Facts of a directory.

    Attributes:
        path: The directory.
        root: Folder of ``config.json`` and the tokenizer; ``path``, except for old sentence-transformers.
        task: Name of the task, as transformers has it, or ``sentence-embeddings``.
        modules: Steps after the network, of sentence-transformers.
        max_length: Most tokens of an input, special ones included; None = no limit.
    """

    path: Path
    root: Path
    task: str
    config: Config
    tokenizer: TokenizerConfig
    sentences: SentenceConfig
    modules: tuple[Module, ...] = ()
    max_length: int | None = None

    @property
    def is_of_images(self) -> bool:
        """Whether the task takes images."""
        return self.task in OF_IMAGES

    @property
    def is_of_sounds(self) -> bool:
        """Whether the task takes sounds."""
        return self.task in OF_SOUNDS

    @property
    def is_of_sequences(self) -> bool:
        """Whether the network has an encoder and a decoder."""
        return self.task in OF_SEQUENCES or (self.is_of_sounds and self.config.model_type == "whisper")

    def labels(self, count: int) -> tuple[str, ...]:
        """Return the names of that many classes; those without a name are ``LABEL_0`` and so on."""
        names = self.config.id2label or {}
        return tuple(names.get(str(i), f"LABEL_{i}") for i in range(count))


class Reader(Generic[_Record]):
    """Reader of JSON files of one kind; fields that its record lacks are ignored."""

    def __init__(self, kind: type[_Record]) -> None:
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind, strict=False).decode

    def read(self, path: Path) -> _Record:
        """Return a file's JSON as a record.

        Raises:
            LoadFailed: the file is missing or broken.
        """
        try:
            return self._decode(head(path, _MOST))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LoadFailed(
                f"{path} is missing or broken: {error}", fix="Download the directory again."
            ) from error

    def read_if_there(self, path: Path) -> _Record:
        """Return the same, or an empty record if there is no such file."""
        return self.read(path) if path.is_file() else self._kind()


_CONFIG: Final = Reader(Config)
_TOKENIZER: Final = Reader(TokenizerConfig)
_SENTENCES: Final = Reader(SentenceConfig)
_MODULES: Final = Reader(list[Module])


def read_record(
    path: Path, decoder: msgspec.json.Decoder[_Record], most: int, step: str, what: str, fix: str
) -> _Record:
    """Return what the JSON file of a step holds.

    Args:
        most: Bytes of the largest file.
        what: What is in the file, for messages.

    Raises:
        LoadFailed: it cannot be read, is too large, or is no such file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise LoadFailed(f"{step}: {path} is larger than {most} bytes")
        return decoder.decode(content)
    except OSError as error:
        raise LoadFailed(f"{step}: {path} cannot be read: {error.strerror or error}", fix=fix) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LoadFailed(f"{step}: {path} is no file of {what}: {error}", fix=fix) from error


def onnx_files(path: Path) -> list[Path]:
    """Return the ONNX files of an export: in the directory, or in ``onnx`` below it."""
    found = []
    for folder in (path, path / "onnx"):
        try:
            found += sorted(file for file in folder.iterdir() if file.suffix == ".onnx")
        except OSError:
            continue
    return found


def has_weights(root: Path) -> bool:
    """Return whether a folder holds weights in safetensors that the installed packages can load."""
    found = any((root / name).is_file() for name in _WEIGHTS)
    return found and is_installed("transformers") and is_installed("torch")


def is_directory_of_model(path: Path) -> bool:
    """Return whether a folder holds a Hugging Face model that can be loaded. Never raises."""
    try:
        root = _root(path, _modules(path))
        if not (root / "config.json").is_file():
            return False
        if not (onnx_files(path) or onnx_files(root) or has_weights(root)):
            return False
        config = _CONFIG.read(root / "config.json")
    except (OSError, LoadFailed):
        return False
    return bool(config.architecture and config.model_type)


def read_directory(path: Path, wished: str = "") -> ModelDirectory:
    """Read a directory.

    Args:
        wished: Task that the operator set; empty = by the files.

    Raises:
        LoadFailed: a file is broken, or the task is not supported; the text names it.
    """
    modules = _modules(path)
    root = _root(path, modules)
    config = _CONFIG.read(root / "config.json")
    tokenizer = _TOKENIZER.read_if_there(root / "tokenizer_config.json")
    sentences = _sentences(path, root)
    task = _supported(path, config, wished or task_of(config, modules, sentences, _tag(path)))
    if wished and wished != "sentence-embeddings":
        modules = ()
    return ModelDirectory(
        path, root, task, config, tokenizer, sentences, modules, _max_length(config, tokenizer, sentences)
    )


def read_tokenizer(folder: Path) -> ModelDirectory:
    """Read what a directory says of its tokenizer; it needs no network and no task. Raises LoadFailed."""
    config = _CONFIG.read_if_there(folder / "config.json")
    tokenizer = _TOKENIZER.read_if_there(folder / "tokenizer_config.json")
    sentences = _sentences(folder, folder)
    longest = _max_length(config, tokenizer, sentences)
    return ModelDirectory(folder, folder, "", config, tokenizer, sentences, max_length=longest)


def task_of(config: Config, modules: tuple[Module, ...], sentences: SentenceConfig, tag: str) -> str:
    """Return the task by the evidence of the files, supported or not; empty = unknown.

    >>> task_of(Config(architectures=["BertForTokenClassification"]), (), SentenceConfig(), "")
    'token-classification'
    """
    if sentences.model_type == "SparseEncoder":
        return "sparse-embeddings"
    if modules:
        return "sentence-embeddings"
    if sentences.model_type == "CrossEncoder":
        return "text-ranking"
    task = next((task for suffix, task in SUFFIXES if config.architecture.endswith(suffix)), "")
    if config.model_type == "whisper":
        task = "automatic-speech-recognition"
    if task == "text-classification":
        labels = config.id2label or {}
        count = config.num_labels or len(labels)
        is_ranker = tag == "text-ranking" or bool(config.activation)
        if count == 1 and is_ranker:
            return "text-ranking"
        if tag == "zero-shot-classification" and any(
            label.lower().startswith("entail") for label in labels.values()
        ):
            return tag
    if task == "text2text-generation" and tag in ("summarization", "translation"):
        return tag
    return task


def _supported(path: Path, config: Config, task: str) -> str:
    if task in SUPPORTED:
        return task
    own = 'Or serve the network alone, tensors in and out: backend = "onnx" in its salver.toml.'
    known = ", ".join(SUPPORTED)
    if not task:
        raise LoadFailed(
            f"{path} is a Hugging Face directory of {config.architecture or config.model_type}, whose task "
            "cannot be told from its files",
            field="options.task",
            fix=f'Set it in salver.toml: [options] task = "…", one of: {known}. {own}',
        )
    raise LoadFailed(
        f"{path} is a Hugging Face directory for {task} ({config.architecture or config.model_type}), which "
        "is not served from raw inputs yet",
        field="options.task",
        fix=f"{FIXES.get(task, 'Served so are: ' + known + '.')} {own}",
    )


def _modules(path: Path) -> tuple[Module, ...]:
    return tuple(_MODULES.read_if_there(path / "modules.json"))


def _root(path: Path, modules: tuple[Module, ...]) -> Path:
    """Return the folder of the network's files, which old sentence-transformers keep in a subfolder."""
    if not modules or not modules[0].path:
        return path
    return inside(path, modules[0].path)


def inside(folder: Path, name: str) -> Path:
    """Return a path below a folder.

    Raises:
        LoadFailed: the name leads out of the folder.
    """
    found = folder / name
    if not found.resolve().is_relative_to(folder.resolve()):
        raise LoadFailed(
            f"{folder} names {name!r}, which is outside", fix="Keep a model's files in its folder."
        )
    return found


def _sentences(path: Path, root: Path) -> SentenceConfig:
    said = _SENTENCES.read_if_there(path / "config_sentence_transformers.json")
    bert = _SENTENCES.read_if_there(root / "sentence_bert_config.json")
    return msgspec.structs.replace(said, max_seq_length=bert.max_seq_length, do_lower_case=bert.do_lower_case)


def _tag(path: Path) -> str:
    """Return ``pipeline_tag`` of the front matter of README.md."""
    text = head(path / "README.md", 1 << 16).decode(errors="replace")
    if not text.startswith("---"):
        return ""
    found = _TAG.search(text[3:].partition("\n---")[0])
    return found[1] if found else ""


def _max_length(config: Config, tokenizer: TokenizerConfig, sentences: SentenceConfig) -> int | None:
    """Return the limit of sentence-transformers if there is one, else the smallest of those known."""
    if sentences.max_seq_length:
        return sentences.max_seq_length
    limits = []
    if tokenizer.model_max_length and tokenizer.model_max_length < _NO_LIMIT:
        limits.append(int(tokenizer.model_max_length))
    positions = config.max_position_embeddings
    if positions and positions > 0:
        if config.model_type in _SHIFTED:
            positions -= (config.pad_token_id or 0) + 1
        limits.append(positions)
    return min(limits, default=None)
