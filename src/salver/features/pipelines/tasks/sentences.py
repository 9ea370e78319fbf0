"""Sentence embeddings with the modules of sentence-transformers, and features of each token.

Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from salver.features.pipelines.directory import ModelDirectory
from salver.features.pipelines.parameters import EmbeddingParameters, Truncating
from salver.features.pipelines.ports import Columns, Scored, Task
from salver.features.pipelines.tasks.classes import truncation
from salver.features.pipelines.tasks.scores import OUTPUT, TEXT, json_rows
from salver.features.pipelines.texts import Piece, TextEncoder
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType

_LEAST: Final = 1e-12
#: A module: from the embeddings of a request, one a row, to others.
Module = Callable[[Array], Array]


class PoolingConfig(msgspec.Struct, frozen=True):
    """``config.json`` of a pooling, in its newer and its older form."""

    pooling_mode: str | list[str] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of the poolings, in the order in which their results are joined."""
        if isinstance(self.pooling_mode, str):
            return (self.pooling_mode,)
        if self.pooling_mode is not None:
            return tuple(self.pooling_mode)
        flags = (
            ("cls", self.pooling_mode_cls_token),
            ("max", self.pooling_mode_max_tokens),
            ("mean", self.pooling_mode_mean_tokens),
            ("mean_sqrt_len_tokens", self.pooling_mode_mean_sqrt_len_tokens),
            ("weightedmean", self.pooling_mode_weightedmean_tokens),
            ("lasttoken", self.pooling_mode_lasttoken),
        )
        return tuple(name for name, is_set in flags if is_set) or ("mean",)


def _mean(states: Array, skipped: int) -> Array:
    states = states[skipped:]
    mean: Array = states.sum(axis=0) / np.float32(max(len(states), 1e-9))
    return mean


def _mean_sqrt(states: Array, skipped: int) -> Array:
    states = states[skipped:]
    mean: Array = states.sum(axis=0) / np.sqrt(np.float32(max(len(states), 1e-9)))
    return mean


def _weighted(states: Array, skipped: int) -> Array:
    weights = np.arange(skipped + 1, len(states) + 1, dtype=np.float32)[:, None]
    mean: Array = (states[skipped:] * weights).sum(axis=0) / max(weights.sum(), np.float32(1e-9))
    return mean


#: Poolings of the states of a text's tokens, which have no padding; the first tokens may be the prompt's.
POOLINGS: Final[Mapping[str, Callable[[Array, int], Array]]] = {
    "cls": lambda states, skipped: states[0],
    "max": lambda states, skipped: states[skipped:].max(axis=0),
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted,
    "lasttoken": lambda states, skipped: states[-1],
}


def normalized(rows: Array) -> Array:
    """Return rows scaled to length 1."""
    lengths = np.sqrt((rows * rows).sum(axis=-1, keepdims=True))
    scaled: Array = rows / np.maximum(lengths, _LEAST)
    return scaled


class SentenceEmbeddings(Task):
    """One embedding for each text.

    Args:
        modules: What follows the pooling.
        width: Numbers of an embedding.
    """

    inputs = (TEXT,)
    parameters = EmbeddingParameters
    is_per_token = True

    def __init__(
        self,
        directory: ModelDirectory,
        encoder: TextEncoder,
        pooling: PoolingConfig,
        modules: Sequence[Module],
        width: int,
    ) -> None:
        self._outputs = (TensorSpec("embeddings", DataType.FP32, (-1, width)),)
        self._encoder = encoder
        self._sentences = directory.sentences
        self._includes_prompt = pooling.include_prompt
        self._modules = modules
        for mode in pooling.modes:
            if mode not in POOLINGS:
                raise LoadFailed(
                    f"{directory.path} has the pooling {mode[:100]!r}, which Salver does not know",
                    fix=f"It knows: {', '.join(POOLINGS)}.",
                )
        self._poolings = [POOLINGS[mode] for mode in pooling.modes]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        return self._outputs

    def _prompt(self, parameters: EmbeddingParameters) -> str:
        """Return what goes before each text.

        Raises:
            InvalidInput: the model has no such prompt.
        """
        if parameters.prompt is not None:
            return parameters.prompt
        name, prompts = parameters.prompt_name, self._sentences.prompts
        if not isinstance(name, str):
            name = self._sentences.default_prompt_name if name is not None else None
            return prompts.get(name or "", "")
        if name not in prompts:
            known = ", ".join(prompts) or "none"
            raise InvalidInput(
                f"parameters.prompt_name {name[:100]!r} is no prompt of this model",
                field="parameters.prompt_name",
                fix=f"It has: {known}.",
            )
        return prompts[name]

    def pieces(self, columns: Columns, parameters: EmbeddingParameters) -> Sequence[Piece]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        prompt, cut = self._prompt(parameters), truncation(parameters)
        texts = [(prompt + text).strip() for text in columns.texts["text"]]
        if self._sentences.do_lower_case:
            texts = [text.lower() for text in texts]
        return [Piece(text, None, cut) for text in texts]

    def answer(
        self, columns: Columns, parameters: EmbeddingParameters, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        skipped = 0
        if not self._includes_prompt and (prompt := self._prompt(parameters)):
            # The prompt's own tokens, without the special one at its end.
            skipped = len(self._encoder.tokenizer.encode(prompt)) - 1
        rows = np.stack([self._pooled(each[0].outputs[0], skipped) for each in scored])
        for module in self._modules:
            rows = module(rows)
        if parameters.truncate_dim is not None:
            rows = rows[:, : parameters.truncate_dim]
        if parameters.normalize_embeddings:
            rows = normalized(rows)
        return {"embeddings": np.ascontiguousarray(rows, np.float32)}

    def _pooled(self, states: Array, skipped: int) -> Array:
        states = states.astype(np.float32, copy=False)
        skipped = min(skipped, len(states) - 1)
        pooled = [pool(states, skipped) for pool in self._poolings]
        return pooled[0] if len(pooled) == 1 else np.concatenate(pooled)


class Features(Task):
    """The states of each token, as nested lists."""

    inputs = (TEXT,)
    outputs = (OUTPUT,)
    parameters = Truncating
    is_per_token = True

    def pieces(self, columns: Columns, parameters: Truncating) -> Sequence[Piece]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        cut = truncation(parameters)
        return [Piece(text, None, cut) for text in columns.texts["text"]]

    def answer(
        self, columns: Columns, parameters: Any, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        return {"output": json_rows([each[0].outputs[0].tolist()] for each in scored)}
