"""Networks of an encoder and a decoder in ONNX, in the files that Optimum writes.

The decoder keeps the keys and values of the tokens that it has seen. There are three layouts:
``decoder_model`` with ``decoder_with_past_model``; ``decoder_model_merged``, which is both; and
``decoder_model`` alone, which is given all tokens again at each step.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from salver.backends.protocol import RunnableModel
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import TensorSpec
from salver.words.tensor import Array

ENCODER: Final = "encoder_model"
DECODER: Final = "decoder_model"
WITH_PAST: Final = "decoder_with_past_model"
MERGED: Final = "decoder_model_merged"
_PAST: Final = "past_key_values."
_PRESENT: Final = "present."
_BRANCH: Final = "use_cache_branch"
_STATES: Final = "encoder_hidden_states"
_MASK: Final = "encoder_attention_mask"
_KNOWN: Final = frozenset(("input_ids", _STATES, _MASK, _BRANCH, "cache_position"))
_FIX: Final = "Export it with: optimum-cli export onnx --model PATH PATH-onnx."
Load = Callable[[Path], RunnableModel]


class Files(NamedTuple):
    """Files of a network; ``decoder`` and ``with_past`` are the same where it is merged."""

    encoder: Path
    decoder: Path
    with_past: Path | None


def files_of(folder: Path, kind: str = "") -> Files | None:
    """Return the files of a directory, in it or in ``onnx`` below it; None = it has no encoder and decoder.

    Args:
        kind: Ending of the names, for example ``_quantized``.
    """
    for place in (folder, folder / "onnx"):
        encoder, decoder, past, merged = (
            place / f"{name}{kind}.onnx" for name in (ENCODER, DECODER, WITH_PAST, MERGED)
        )
        if not encoder.is_file():
            continue
        if merged.is_file():
            return Files(encoder, merged, merged)
        if decoder.is_file():
            return Files(encoder, decoder, past if past.is_file() else None)
    return None


class Seq2SeqNetwork:
    """Encoder and decoder.

    Args:
        head: Number of heads and numbers of a head of the decoder, where its file does not tell.

    Attributes:
        inputs: Inputs of the encoder.
    """

    def __init__(self, files: Files, load: Load, head: tuple[int, int]) -> None:
        loaded: list[RunnableModel] = []
        try:
            for path in dict.fromkeys(path for path in files if path is not None):
                loaded.append(load(path))
        except BaseException:
            for model in loaded:
                model.close()
            raise
        self._models = loaded
        self._encoder, self._decoder = loaded[0], loaded[1]
        self._with_past: RunnableModel | None = None
        if files.with_past is not None:
            self._with_past = loaded[-1]
        self._head = head
        self.inputs = self._encoder.signature.inputs
        self._output = self._encoder.signature.outputs[0].name
        for model in loaded[1:]:
            self._check(model, files)
        self.vocabulary = next(
            spec.shape[-1] for spec in self._decoder.signature.outputs if spec.name == "logits"
        )

    @property
    def is_cached(self) -> bool:
        """Whether the decoder takes what it has kept, and only new tokens."""
        return self._with_past is not None

    def encode(self, inputs: Mapping[str, Array]) -> Array:
        """Return the encoder's states ``[rows, places, width]``."""
        return self._encoder.run(inputs)[self._output]

    def begin(self, states: Array, mask: Array | None, beams: int) -> "CachedRun":
        """Return a run of the decoder with so many rows for each row of states."""
        if mask is None:
            mask = np.ones(states.shape[:2], np.int64)
        return CachedRun(self, np.repeat(states, beams, axis=0), np.repeat(mask, beams, axis=0))

    def close(self) -> None:
        """Release the models."""
        for model in self._models:
            model.close()

    def _check(self, model: RunnableModel, files: Files) -> None:
        signature = model.signature
        unknown = [s.name for s in signature.inputs if s.name not in _KNOWN and not s.name.startswith(_PAST)]
        if unknown or all(spec.name != "logits" for spec in signature.outputs):
            what = f"takes {unknown[0]}" if unknown else "gives no logits"
            raise LoadFailed(f"the decoder beside {files.encoder} {what}, which is unknown", fix=_FIX)

    def ask(self, run: "CachedRun", tokens: Array) -> Array:
        """Return the scores after the last tokens, and keep what the decoder gives for the next step."""
        is_first = not run.past
        model = self._decoder if is_first or self._with_past is None else self._with_past
        feed = {spec.name: self._fed(spec, run, tokens, is_first) for spec in model.signature.inputs}
        given = dict(model.run(feed))
        logits = given.pop("logits")
        if logits.ndim != 3 or len(logits) != len(tokens):
            raise ModelFailed("the decoder's logits do not have a row for each text", fix=_FIX)
        if self._with_past is not None:
            for name, array in given.items():
                # A merged decoder gives nothing of the encoder, once it has kept that.
                if name.startswith(_PRESENT) and (is_first or ".encoder." not in name):
                    run.past[_PAST + name.removeprefix(_PRESENT)] = array
        scores: Array = logits[:, -1]
        return scores

    def _fed(self, spec: TensorSpec, run: "CachedRun", tokens: Array, is_first: bool) -> Array:
        name, dtype = spec.name, spec.datatype.dtype
        if name == _STATES:
            return run.states.astype(dtype, copy=False)
        if name == _MASK:
            return run.mask.astype(dtype, copy=False)
        if name == _BRANCH:
            return np.array([not is_first])
        if name == "input_ids":
            return tokens.astype(dtype, copy=False)
        if name == "cache_position":
            return np.arange(run.length - tokens.shape[1], run.length, dtype=dtype)
        if name in run.past:
            return run.past[name]
        sizes = (fixed if fixed > 0 else own for fixed, own in zip(spec.shape[1::2], self._head, strict=True))
        heads, width = sizes
        return np.zeros((len(tokens), heads, 0, width), dtype)


class CachedRun:
    """Run of a decoder; see :class:`~salver.features.pipelines.generation.DecoderRun`.

    Attributes:
        states, mask: Outputs of the encoder and their mask, for each row.
        past: Keys and values of the tokens so far, by the names of inputs.
        length: Number of tokens so far.
    """

    def __init__(self, network: Seq2SeqNetwork, states: Array, mask: Array) -> None:
        self._network = network
        self.states = states
        self.mask = mask
        self.past: dict[str, Array] = {}
        self.length = 0
        self._tokens: Any = None

    def step(self, tokens: Array) -> Array:
        """See :class:`~salver.features.pipelines.generation.DecoderRun`."""
        if self._network.is_cached:
            self.length += tokens.shape[1]
            return self._network.ask(self, tokens)
        before = () if self._tokens is None else (self._tokens,)
        self._tokens = np.concatenate([*before, tokens], axis=1)
        self.length = self._tokens.shape[1]
        return self._network.ask(self, self._tokens)

    def keep(self, rows: Array) -> None:
        """See :class:`~salver.features.pipelines.generation.DecoderRun`."""
        # Beams of one text have the same states, which need not change places.
        is_same_text = len(rows) == len(self.states)
        if not is_same_text:
            self.states, self.mask = self.states[rows], self.mask[rows]
        if self._tokens is not None:
            self._tokens = self._tokens[rows]
        for name, array in self.past.items():
            if not (is_same_text and ".encoder." in name):
                self.past[name] = array[rows]
