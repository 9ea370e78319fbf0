"""Making of the model of a directory for sounds, from its files and the network's inputs and outputs."""

from collections.abc import Mapping
from typing import Final

import msgspec

from salver.backends.protocol import RunnableModel
from salver.features.pipelines.ctc import read_alphabet
from salver.features.pipelines.ctc_model import MASK, VALUES, CtcRecogniser, CtcSettings
from salver.features.pipelines.directory import ModelDirectory, Reader
from salver.features.pipelines.generation_files import read_generation, read_seq_config
from salver.features.pipelines.ports import EncoderDecoder
from salver.features.pipelines.sound_model import SoundModel
from salver.features.pipelines.sounds import MOST_SECONDS
from salver.features.pipelines.steps.sounds import MOST_ALLOWED
from salver.features.pipelines.texts import TextEncoder
from salver.features.pipelines.whisper_model import FEATURES, Spectrum, WhisperRecogniser
from salver.words.errors import LoadFailed
from salver.words.messages import described

_EXPORT: Final = "Export it with: optimum-cli export onnx --model {path} {path}-onnx."
#: Networks that take samples; others have features of their own.
_OF_SAMPLES: Final = "Wav2Vec2FeatureExtractor"


class _Extractor(msgspec.Struct, frozen=True):
    """The part of ``preprocessor_config.json`` that matters."""

    feature_extractor_type: str = ""
    sampling_rate: int = 16_000
    do_normalize: bool = True
    feature_size: int = 80
    n_fft: int = 400
    hop_length: int = 160
    chunk_length: int = 30


class _Convolutions(msgspec.Struct, frozen=True):
    """The part of ``config.json`` that says how long a frame is."""

    conv_kernel: tuple[int, ...] = ()
    conv_stride: tuple[int, ...] = ()


_EXTRACTOR: Final = Reader(_Extractor)
_CONVOLUTIONS: Final = Reader(_Convolutions)


def ctc_model(
    directory: ModelDirectory, network: RunnableModel, options: Mapping[str, str], threads: int
) -> SoundModel:
    """Return the model of a network that gives letters.

    Raises:
        LoadFailed: an option, a file or the network does not fit.
    """
    seconds = seconds_of(options)
    extractor = _EXTRACTOR.read(directory.root / "preprocessor_config.json")
    convolutions = _CONVOLUTIONS.read(directory.root / "config.json")
    names = {spec.name: spec.shape for spec in network.signature.inputs}
    shape = names.pop(VALUES, ())
    names.pop(MASK, None)
    if shape[1:] != (-1,) or names or len(network.signature.outputs) != 1:
        raise LoadFailed(
            f"the network of {directory.path} takes {described(network.signature.inputs)}; a sound gives "
            f"{VALUES} [-1,-1] and {MASK}, and the answer is one output",
            fix=_EXPORT.format(path=directory.path),
        )
    kernels, strides = convolutions.conv_kernel, convolutions.conv_stride
    if not kernels or len(kernels) != len(strides) or min(*kernels, *strides) < 1:
        raise LoadFailed(f"{directory.root}/config.json has no conv_kernel and conv_stride that fit together")
    if extractor.feature_extractor_type not in ("", _OF_SAMPLES) or extractor.sampling_rate < 1:
        raise LoadFailed(
            f"{directory.root}/preprocessor_config.json names {extractor.feature_extractor_type[:100]!r}",
            fix=f"Salver knows {_OF_SAMPLES}, and WhisperFeatureExtractor.",
        )
    settings = CtcSettings(extractor.sampling_rate, kernels, strides, extractor.do_normalize)
    recogniser = CtcRecogniser(network, read_alphabet(directory.root), settings)
    return SoundModel(recogniser, directory.task, seconds, threads)


def whisper_model(
    directory: ModelDirectory,
    network: EncoderDecoder,
    encoder: TextEncoder,
    options: Mapping[str, str],
    threads: int,
) -> SoundModel:
    """Return the model of Whisper.

    Raises:
        LoadFailed: an option, a file or the network does not fit.
    """
    seconds = seconds_of(options)
    extractor = _EXTRACTOR.read(directory.root / "preprocessor_config.json")
    config = read_seq_config(directory)
    generation, _ = read_generation(directory, config, directory.task)
    inputs = {spec.name: spec.shape for spec in network.inputs}
    spectrum = Spectrum(
        extractor.sampling_rate,
        extractor.n_fft,
        extractor.hop_length,
        extractor.feature_size,
        extractor.chunk_length,
        config.max_source_positions or 1500,
    )
    if list(inputs) != [FEATURES] or not spectrum.fits(inputs[FEATURES]):
        raise LoadFailed(
            f"the encoder of {directory.path} takes {described(network.inputs)}, and "
            f"preprocessor_config.json says {FEATURES} [-1,{spectrum.bands},{spectrum.frames}]",
            fix=_EXPORT.format(path=directory.path),
        )
    vocabulary = network.vocabulary if network.vocabulary > 0 else config.vocab_size or 0
    recogniser = WhisperRecogniser(
        network, encoder, spectrum, generation, vocabulary, config.max_target_positions or 448
    )
    return SoundModel(recogniser, directory.task, seconds, threads)


def seconds_of(options: Mapping[str, str]) -> int:
    """Return the option ``max_seconds``.

    Raises:
        LoadFailed: it is out of range.
    """
    most = options.get("max_seconds", str(MOST_SECONDS))
    if not (most.isascii() and most.isdecimal() and 0 < int(most) <= MOST_ALLOWED):
        raise LoadFailed(
            f"max_seconds is {most[:40]!r}",
            field="options.max_seconds",
            fix=f"Write a number of seconds from 1 to {MOST_ALLOWED}, for example {MOST_SECONDS}.",
        )
    return int(most)
