"""Texts as tokens and back, and facts of a model, as Text Embeddings Inference gives them.

A model's own tokenizer may be in another process, so that one is read here at the first request for it.
"""

import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, Final
from weakref import WeakKeyDictionary

import msgspec

from salver.backends.loading import framework, loading
from salver.features.pipelines.backend import FORMAT, HuggingFaceBackend
from salver.features.pipelines.directory import ModelDirectory, read_directory
from salver.features.pipelines.making import POOLING
from salver.features.pipelines.names import OF_FILES
from salver.features.pipelines.peers.tei import NothingAsked, texts_of
from salver.features.pipelines.texts import MOST_TOKENS, TextEncoder
from salver.kernel.serving.servable import Servable
from salver.words.errors import InvalidInput, Unsupported

_Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class TokenizeRequest(msgspec.Struct, frozen=True):
    """Body of ``/tokenize``."""

    inputs: Any
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeRequest(msgspec.Struct, frozen=True):
    """Body of ``/decode``: the ids of a text, or of several."""

    ids: list[_Id | list[_Id]]
    skip_special_tokens: bool = True


TOKENIZE: Final = msgspec.json.Decoder(TokenizeRequest)
DECODE: Final = msgspec.json.Decoder(DecodeRequest)


class Directories:
    """Directories of loaded versions, with their tokenizers."""

    def __init__(self) -> None:
        self._encoders: WeakKeyDictionary[Servable, TextEncoder] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, servable: Servable) -> ModelDirectory:
        """Return the directory of a version. Raises Unsupported: it has none."""
        manifest = servable.manifest
        if manifest.format != FORMAT:
            raise Unsupported("the model is no Hugging Face directory, and has no tokenizer of its own")
        return read_directory(manifest.path, manifest.config.options.get("task", ""))

    def encoder(self, servable: Servable) -> TextEncoder:
        """Return the tokenizer of a version, on a thread. Raises Unsupported, LoadFailed."""
        with self._lock:
            found = self._encoders.get(servable)
            if found is None:
                directory = self.of(servable)
                if directory.task in OF_FILES:
                    raise Unsupported(f"the model is for {directory.task}, and has no tokenizer")
                tokenizers = framework(HuggingFaceBackend(), "tokenizers")
                manifest = msgspec.structs.replace(
                    servable.manifest,
                    path=directory.root / "tokenizer.json",
                    format="tokenizer.json",
                )
                with loading(manifest):
                    found = TextEncoder(directory, {}, tokenizers.Tokenizer.from_str)
                self._encoders[servable] = found
        return found

    def tokenize(self, servable: Servable, asked: TokenizeRequest) -> list[list[dict[str, Any]]]:
        """Return the tokens of each text, with offsets in bytes of UTF-8."""
        texts = texts_of(asked.inputs)
        prefix = self._prompt(servable, asked.prompt_name)
        texts = [prefix + text for text in texts]
        encodings = self.encoder(servable).tokenizer.encode_batch(
            texts, add_special_tokens=asked.add_special_tokens
        )
        return [_tokens(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def decode(self, servable: Servable, asked: DecodeRequest) -> list[str]:
        """Return the texts of ids. Raises InvalidInput."""
        ids: Sequence[Any] = asked.ids
        if not ids or [] in ids:
            raise NothingAsked("`ids` cannot be empty")
        are_lists = {type(each) is list for each in ids}
        if len(are_lists) > 1:
            raise InvalidInput("`ids` has ids and lists of ids", field="ids")
        batch = ids if True in are_lists else [ids]
        found: list[str] = self.encoder(servable).tokenizer.decode_batch(
            batch, skip_special_tokens=asked.skip_special_tokens
        )
        return found

    def _prompt(self, servable: Servable, name: str | None) -> str:
        if name is None:
            return ""
        prompts = self.of(servable).sentences.prompts
        if name not in prompts:
            raise InvalidInput(
                f"`prompt_name` {name[:100]!r} is no prompt of the model",
                field="prompt_name",
                fix=f"It has: {', '.join(prompts) or 'none'}.",
            )
        return prompts[name]

    def info(self, servable: Servable, version: str) -> dict[str, Any]:
        """Return the facts of a loaded version that TEI's ``/info`` has and Salver knows.

        Args:
            version: Version of Salver.
        """
        directory = self.of(servable)
        name = servable.manifest.id.name
        return {
            "model_id": name,
            "model_sha": None,
            "model_dtype": "float32",
            "served_model_name": name,
            "model_type": _kind(directory),
            "max_input_length": directory.max_length,
            "max_batch_tokens": MOST_TOKENS,
            "max_batch_requests": None,
            "auto_truncate": True,
            "version": version,
            "sha": None,
            "docker_label": None,
        }


def _tokens(text: str, encoding: Any) -> list[dict[str, Any]]:
    begins = None if text.isascii() else [0, *accumulate(len(letter.encode()) for letter in text)]
    found = []
    for id, token, special, (start, stop) in zip(
        encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
    ):
        if special:
            found.append({"id": id, "text": token, "special": True, "start": None, "stop": None})
            continue
        part = text[start:stop]
        if begins is not None:
            start, stop = begins[start], begins[stop]
        found.append({"id": id, "text": part, "special": False, "start": start, "stop": stop})
    return found


def _kind(directory: ModelDirectory) -> dict[str, Any]:
    """Return ``model_type``. Raises Unsupported: TEI has no such models."""
    if directory.task == "sentence-embeddings":
        modes = [
            mode
            for module in directory.modules
            if module.kind == "Pooling"
            for mode in POOLING.read(directory.path / module.path / "config.json").modes
        ]
        return {"embedding": {"pooling": "+".join(modes) or "mean"}}
    if directory.task not in ("text-classification", "text-ranking"):
        raise Unsupported(f"the model is for {directory.task}, and /info tells of embeddings and classifiers")
    labels = directory.labels(directory.config.num_labels or len(directory.config.id2label or {}))
    about = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    return {"reranker" if directory.task == "text-ranking" else "classifier": about}
