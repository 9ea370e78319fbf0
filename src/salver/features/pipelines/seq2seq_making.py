"""Making of networks with an encoder and a decoder, and of the models that make texts from texts."""

import re
from pathlib import Path
from typing import Final

from salver.features.pipelines.directory import ModelDirectory
from salver.features.pipelines.generation_files import read_generation, read_seq_config
from salver.features.pipelines.ports import EncoderDecoder
from salver.features.pipelines.seq2seq import DECODER, ENCODER, Files, Load, Seq2SeqNetwork, files_of
from salver.features.pipelines.seq2seq_model import Seq2SeqModel
from salver.features.pipelines.texts import TextEncoder
from salver.words.errors import LoadFailed
from salver.words.messages import described

_EXPORT: Final = "Export it with: optimum-cli export onnx --model {path} {path}-onnx."
_TRANSLATION: Final = re.compile(r"translation_[a-z]+_to_[a-z]+")
#: Networks whose decoders count places from the encoder's tokens, and so have no limit.
_WITHOUT_LIMIT: Final = ("t5", "mt5", "umt5", "longt5")


def open_network(directory: ModelDirectory, kind: str, load: Load) -> Seq2SeqNetwork:
    """Return the network of a directory.

    Args:
        kind: Ending of the files' names that the operator wishes, for example ``_quantized``.

    Raises:
        LoadFailed: a file is missing or does not fit.
    """
    files = _files(directory.path, kind)
    return Seq2SeqNetwork(files, load, read_seq_config(directory).head)


def _files(folder: Path, kind: str) -> Files:
    wished = kind.removesuffix(".onnx").removeprefix("onnx/").removeprefix(ENCODER)
    found = files_of(folder, wished)
    if found is None:
        raise LoadFailed(
            f"{folder} has no {ENCODER}{wished}.onnx with a {DECODER}{wished}.onnx",
            field="options.file" if kind else "",
            fix=f"{_EXPORT.format(path=folder)} The option `file` is the ending of its names, such as "
            "_quantized.",
        )
    return found


def seq2seq_model(directory: ModelDirectory, network: EncoderDecoder, encoder: TextEncoder) -> Seq2SeqModel:
    """Return the model of a directory that makes texts from texts.

    Raises:
        LoadFailed: a file or the network does not fit.
    """
    config = read_seq_config(directory)
    names = {spec.name for spec in network.inputs}
    if not {"input_ids"} <= names <= {"input_ids", "attention_mask"}:
        raise LoadFailed(
            f"the encoder of {directory.path} takes {described(network.inputs)}, and texts give input_ids "
            "and attention_mask",
            fix=_EXPORT.format(path=directory.path),
        )
    generation, prefix = read_generation(
        directory, config, _specific(directory.task, config.task_specific_params)
    )
    vocabulary = network.vocabulary if network.vocabulary > 0 else config.vocab_size or 0
    most = None if directory.config.model_type in _WITHOUT_LIMIT else config.max_position_embeddings
    return Seq2SeqModel(
        network, encoder, directory.task, generation, vocabulary, most_tokens=most, prefix=prefix
    )


def _specific(task: str, known: dict[str, dict[str, object]] | None) -> str:
    """Return the key of a task's own settings; of a network for several pairs of languages, none."""
    if task != "translation":
        return task
    pairs = [key for key in known or () if _TRANSLATION.fullmatch(key)]
    return pairs[0] if len(pairs) == 1 else ""
