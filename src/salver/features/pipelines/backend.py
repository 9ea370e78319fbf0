"""Backends for Hugging Face directories, and for directories with a ``pipeline.toml``.

Of the former, raw texts or images come in and answers of the task go out. The network runs with the ONNX
backend, the tokenizer with ``tokenizers``, images with Pillow. Neither transformers nor PyTorch is needed,
but for directories that hold weights alone.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from salver.backends.protocol import LoadOptions, RunnableModel, Traits
from salver.kernel.repository import Formats
from salver.lazy import lazy_imports
from salver.words.artifacts import Ensemble, EnsembleStep, Manifest, ModelConfig
from salver.words.errors import LoadFailed, MissingExtra
from salver.words.messages import HUGGING_FACE, Signature
from salver.words.tensor import DataType

with lazy_imports():
    from salver.backends.installed import is_installed
    from salver.backends.loading import framework, loading, options_of
    from salver.backends.onnx import OnnxBackend
    from salver.features.pipelines.directory import (
        ModelDirectory,
        has_weights,
        inside,
        is_directory_of_model,
        onnx_files,
        read_directory,
    )
    from salver.features.pipelines.image_making import image_model
    from salver.features.pipelines.local import LocalPipeline, model_beside, read_document
    from salver.features.pipelines.locking import skew_of
    from salver.features.pipelines.making import task_of_network
    from salver.features.pipelines.model import PipelineModel
    from salver.features.pipelines.ports import EncoderDecoder
    from salver.features.pipelines.seq2seq import files_of
    from salver.features.pipelines.seq2seq_making import open_network, seq2seq_model
    from salver.features.pipelines.sound_making import ctc_model, whisper_model
    from salver.features.pipelines.texts import TextEncoder
    from salver.features.pipelines.torch_network import torch_network
    from salver.features.pipelines.torch_seq2seq import torch_seq2seq

FORMAT: Final = "huggingface"
PIPELINE: Final = "pipeline"
_PIPELINE_FILE: Final = "pipeline.toml"
_MARKS: Final = ("config.json", "modules.json")
#: Options of this backend by what the task takes; the others are the ONNX backend's.
_OF_IMAGES: Final = ("decode", "max_pixels")
_OF_SOUNDS: Final = ("max_seconds",)
_OWN: Final = frozenset(("task", "file", *_OF_IMAGES, *_OF_SOUNDS))
_KNOWN: Final = frozenset(("input_ids", "attention_mask", "token_type_ids"))
_TYPES: Final = {DataType.INT64: "int64", DataType.INT32: "int32"}


class HuggingFaceBackend:
    """Backend for directories as ``optimum-cli export onnx`` writes them."""

    name = "huggingface"
    extra = "text"
    modules: tuple[str, ...] = ("onnxruntime", "tokenizers")
    traits = Traits(repeatable=True, harmless_formats=frozenset())

    def recognise(self, path: Path) -> str | None:
        """Return ``huggingface`` for a folder with a model's ``config.json`` and an ONNX file."""
        # Most paths are no such folder, and need no more of this package. A pipeline may lie in one.
        if not (path.is_dir() and any((path / name).is_file() for name in _MARKS)):
            return None
        if (path / _PIPELINE_FILE).is_file():
            return None
        return FORMAT if is_directory_of_model(path) else None

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """See :class:`~salver.backends.protocol.Backend`.

        Options: ``task``, ``file`` (the ONNX file, below the directory), ``decode`` and ``max_pixels`` for
        images, ``max_seconds`` for sounds, and those of the ONNX backend.
        """
        wished = manifest.config.options
        directory = read_directory(manifest.path, wished.get("task", ""))
        _check_kind(directory, wished)
        if directory.is_of_sequences:
            return self._sequences(manifest, directory, options)
        network = self._network(manifest, directory, options)
        try:
            if directory.is_of_images:
                return image_model(directory, network, wished, options.threads)
            if directory.is_of_sounds:
                return ctc_model(directory, network, wished, options.threads)
            return self._model(manifest, network, directory)
        except BaseException:
            network.close()
            raise

    def _network(self, manifest: Manifest, directory: ModelDirectory, options: LoadOptions) -> RunnableModel:
        wished = manifest.config.options.get("file", "")
        if not wished and has_weights(directory.root) and not _found(directory):
            options_of(manifest, _OWN)
            libraries = (framework(self, "transformers"), framework(self, "torch"))
            return torch_network(directory, *libraries, options.threads)
        return self._onnx(manifest, _onnx_file(directory, wished), options)

    def _onnx(self, manifest: Manifest, file: Path, options: LoadOptions) -> RunnableModel:
        own = {key: value for key, value in manifest.config.options.items() if key not in _OWN}
        alone = msgspec.structs.replace(
            manifest, path=file, format="onnx", backend="onnx", config=ModelConfig(options=own)
        )
        return OnnxBackend().load(alone, options)

    def _model(self, manifest: Manifest, network: RunnableModel, directory: ModelDirectory) -> PipelineModel:
        names = {}
        for spec in network.signature.inputs:
            if spec.name not in _KNOWN or spec.datatype not in _TYPES or len(spec.shape) != 2:
                raise LoadFailed(
                    f"the network of {directory.path} takes {spec.name} {spec.datatype.name}"
                    f"{list(spec.shape)}, and a tokenizer gives no such input",
                    fix=f"Export it for {directory.task}: "
                    f"optimum-cli export onnx --model {directory.path} {directory.path}-onnx.",
                )
            if spec.shape[1] >= 0:
                raise LoadFailed(
                    f"the network of {directory.path} takes texts of exactly {spec.shape[1]} tokens",
                    fix="Export it with a dynamic sequence axis, as optimum-cli does.",
                )
            names[spec.name] = _TYPES[spec.datatype]
        encoder = self._encoder(manifest, directory, names)
        task = task_of_network(directory, encoder, network.signature)
        signature = Signature(task.inputs, task.outputs, True, HUGGING_FACE + directory.task, converts=True)
        rows = max(0, network.signature.inputs[0].shape[0])
        return PipelineModel(network, encoder, task, signature, rows)

    def _sequences(
        self, manifest: Manifest, directory: ModelDirectory, options: LoadOptions
    ) -> RunnableModel:
        """Return a model whose network has an encoder and a decoder."""
        wished = manifest.config.options.get("file", "")
        network: EncoderDecoder
        if not wished and has_weights(directory.root) and files_of(directory.path) is None:
            options_of(manifest, _OWN)
            libraries = (framework(self, "transformers"), framework(self, "torch"))
            network = torch_seq2seq(directory, *libraries, options.threads)
        else:
            network = open_network(directory, wished, partial(self._onnx, manifest, options=options))
        try:
            encoder = self._encoder(
                manifest, directory, dict.fromkeys(("input_ids", "attention_mask"), "int64")
            )
            if directory.is_of_sounds:
                return whisper_model(directory, network, encoder, manifest.config.options, options.threads)
            return seq2seq_model(directory, network, encoder)
        except BaseException:
            network.close()
            raise

    def _encoder(self, manifest: Manifest, directory: ModelDirectory, names: dict[str, str]) -> TextEncoder:
        # Read at the first batch. With threads, 8 short texts took five times as long on busy cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizers = framework(self, "tokenizers")
        tokenizer = directory.root / "tokenizer.json"
        with loading(msgspec.structs.replace(manifest, path=tokenizer, format="tokenizer.json")):
            return TextEncoder(directory, names, tokenizers.Tokenizer.from_str)


def _check_kind(directory: ModelDirectory, options: Mapping[str, str]) -> None:
    """Refuse options of another kind of task, and a task whose packages are missing."""
    kinds = (
        (directory.is_of_images, _OF_IMAGES, "images", {"PIL": "pillow"}),
        (directory.is_of_sounds, _OF_SOUNDS, "sound", {"soundfile": "soundfile", "soxr": "soxr"}),
    )
    for is_meant, names, extra, modules in kinds:
        if is_meant:
            for module, package in modules.items():
                if not is_installed(module):
                    raise MissingExtra(FORMAT, extra, package)
        elif unfit := [name for name in names if name in options]:
            raise LoadFailed(
                f"{directory.path} is for {directory.task}, and {unfit[0]} is an option of other tasks",
                field=f"options.{unfit[0]}",
            )


def _onnx_file(directory: ModelDirectory, wished: str) -> Path:
    """Return the network's file.

    Raises:
        LoadFailed: there is none, or several with none called ``model.onnx``.
    """
    folder = directory.path
    if wished:
        file = inside(folder, wished)
        if not file.is_file():
            raise LoadFailed(f"{folder} has no file {wished!r}", field="options.file", fix=_files(folder))
        return file
    found = _found(directory)
    usual = [file for file in found if file.name == "model.onnx"] or found
    if len(usual) == 1 or (usual and usual[0].name == "model.onnx"):
        return usual[0]
    raise LoadFailed(
        f"{folder} holds no model.onnx, but {len(found)} other ONNX files",
        field="options.file",
        fix=_files(folder),
    )


def _found(directory: ModelDirectory) -> list[Path]:
    """Return the ONNX files of a directory."""
    found = onnx_files(directory.path)
    if directory.root != directory.path:
        found += onnx_files(directory.root)
    return found


def _files(folder: Path) -> str:
    names = [str(file.relative_to(folder)) for file in onnx_files(folder)[:10]]
    return f'Name one in salver.toml: [options] file = "…"; there are: {", ".join(names) or "none"}.'


class PipelineBackend:
    """Backend of pipelines whose models all lie beside them; a server loads them by its own loader."""

    name = PIPELINE
    extra = "text"
    modules: tuple[str, ...] = ()
    #: Of its models, some may not be run by two threads at once.
    traits = Traits(concurrent=False, repeatable=True, harmless_formats=frozenset())

    def recognise(self, path: Path) -> str | None:
        """Return ``pipeline`` for a folder with a ``pipeline.toml``."""
        return PIPELINE if (path / _PIPELINE_FILE).is_file() else None

    def load(self, manifest: Manifest, options: LoadOptions) -> "LocalPipeline":
        """See :class:`~salver.backends.protocol.Backend`.

        Options: ``skew``, which says what happens if it is not the pipeline of its ``pipeline.lock``:
            ``refuse`` or ``warn``.
        """
        skew = skew_of(options_of(manifest, ("skew",)).get("skew", "refuse"))
        return LocalPipeline(manifest.path, options=options, skew=skew)


class PipelineFormat:
    """Reader of the server's models that a ``pipeline.toml`` needs."""

    def identify(self, path: Path, name: str) -> tuple[str, str]:
        """Return name and version."""
        return name, "1"

    def complete(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the server's models as members, so that they are loaded before it."""
        try:
            steps = tuple(
                EnsembleStep(table.model, table.version, dict(table.inputs))
                for table in read_document(manifest.path).steps
                if table.model and model_beside(manifest.path, table) is None
            )
        except LoadFailed as error:
            return msgspec.structs.replace(manifest, problem=str(error))
        return msgspec.structs.replace(
            manifest, config=msgspec.structs.replace(manifest.config, ensemble=Ensemble(steps))
        )


FORMATS: Final = Formats(archives={PIPELINE: PipelineFormat()})
