"""Encoders and decoders of Hugging Face directories in PyTorch, for directories without an ONNX export."""

import inspect
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from salver.features.pipelines.directory import ModelDirectory
from salver.features.pipelines.torch_network import pretrained
from salver.words.errors import LoadFailed
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType

_OLD_CACHE: Final = "past_key_values"


class TorchSeq2Seq:
    """Encoder and decoder; see :class:`~salver.features.pipelines.ports.EncoderDecoder`.

    Args:
        wraps: Class of an encoder's outputs in transformers.
    """

    def __init__(self, torch: Any, wraps: Any, model: Any, inputs: tuple[TensorSpec, ...]) -> None:
        self.torch = torch
        self.wraps = wraps
        self.model = model
        self.inputs = inputs
        self.vocabulary = int(getattr(model.config, "vocab_size", 0) or -1)
        #: Name of what keeps keys and values, which transformers has changed.
        self.cache = "cache" if "cache" in inspect.signature(model.forward).parameters else _OLD_CACHE
        #: A decoder of sounds sees all of a window.
        self.takes_mask = any(spec.name == "attention_mask" for spec in inputs)

    def encode(self, inputs: Mapping[str, Array]) -> Array:
        """See :class:`~salver.features.pipelines.ports.EncoderDecoder`."""
        with self.torch.inference_mode():
            given = {name: self.torch.tensor(array) for name, array in inputs.items()}
            states: Array = self.model.get_encoder()(**given)[0].numpy()
        return states

    def begin(self, states: Array, mask: Array | None, beams: int) -> "TorchRun":
        """See :class:`~salver.features.pipelines.ports.EncoderDecoder`."""
        return TorchRun(
            self, states.repeat(beams, axis=0), None if mask is None else mask.repeat(beams, axis=0)
        )

    def close(self) -> None:
        """Release the model."""
        self.model = None


class TorchRun:
    """Run of a decoder; see :class:`~salver.features.pipelines.generation.DecoderRun`."""

    def __init__(self, network: TorchSeq2Seq, states: Array, mask: Array | None) -> None:
        self._network = network
        self._states = network.torch.tensor(states)
        self._mask = None
        if mask is not None and network.takes_mask:
            self._mask = network.torch.tensor(mask)
        self._past: Any = None

    def step(self, tokens: Array) -> Array:
        """See :class:`~salver.features.pipelines.generation.DecoderRun`."""
        network = self._network
        given = {} if self._mask is None else {"attention_mask": self._mask}
        with network.torch.inference_mode():
            found = network.model(
                encoder_outputs=network.wraps(last_hidden_state=self._states),
                decoder_input_ids=network.torch.tensor(tokens),
                use_cache=True,
                **{network.cache: self._past},
                **given,
            )
        self._past = found[network.cache]
        scores: Array = found.logits[:, -1].numpy().astype(np.float32, copy=False)
        return scores

    def keep(self, rows: Array) -> None:
        """See :class:`~salver.features.pipelines.generation.DecoderRun`."""
        places = self._network.torch.tensor(rows)
        self._states = self._states[places]
        if self._mask is not None:
            self._mask = self._mask[places]
        if self._past is not None:
            self._past.reorder_cache(places)


def torch_seq2seq(directory: ModelDirectory, transformers: Any, torch: Any, threads: int) -> TorchSeq2Seq:
    """Return the encoder and decoder of a directory.

    Raises:
        LoadFailed: its weights do not fit.
    """
    kind = "AutoModelForSpeechSeq2Seq" if directory.is_of_sounds else "AutoModelForSeq2SeqLM"
    model = pretrained(directory, kind, transformers, torch, threads)
    inputs = tuple(TensorSpec(name, DataType.INT64, (-1, -1)) for name in ("input_ids", "attention_mask"))
    if directory.is_of_sounds:
        try:
            shape = (-1, int(model.config.num_mel_bins), 2 * int(model.config.max_source_positions))
        except AttributeError as error:
            raise LoadFailed(f"{directory.path} is no network like Whisper: {error}") from error
        inputs = (TensorSpec("input_features", DataType.FP32, shape),)
    return TorchSeq2Seq(torch, transformers.modeling_outputs.BaseModelOutput, model, inputs)
