"""Decoding of sounds: files in, samples of one channel at the rate of a network out.

Files are read by libsndfile (``soundfile``) and resampled by libsoxr (``soxr``, quality HQ). :func:`load` is
the only one that reads bytes of callers: what a header says is bounded before anything is decoded, and every
way in which a file can be broken is an InvalidInput.
"""

import io
from typing import Any, Final

import numpy as np
import soundfile
import soxr

from salver.features.pipelines.payload import payload
from salver.words.errors import InvalidInput
from salver.words.tensor import Array

#: Formats that are decoded, as libsndfile names them.
FORMATS: Final = frozenset(("WAV", "WAVEX", "FLAC", "OGG", "MP3"))
#: Seconds of a sound; one takes 64 kB at 16 kHz once it is decoded.
MOST_SECONDS: Final = 1800
_MOST_CHANNELS: Final = 8
_RATES: Final = range(1_000, 384_001)
_BLOCK: Final = 1 << 20  # numbers that are decoded at a time, of all channels
_BEGINS: Final = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3")
_SEND: Final = "Send the bytes of a sound (WAV, FLAC, OGG or MP3), or its base64."
_OTHER: Final = "Other formats are converted by: ffmpeg -i FILE sound.flac."


def plain_bytes(value: bytes | str) -> bytes:
    """Return the bytes of a sound, which may have been sent as base64 or as a ``data:`` URL.

    >>> plain_bytes("data:audio/flac;base64,ZkxhQw==")
    b'fLaC'

    Raises:
        InvalidInput: it is a URL of another kind, or broken base64.
    """
    return payload(value, "a sound", _SEND)


def load(data: bytes, rate: int, most_seconds: float = MOST_SECONDS) -> Array:
    """Return the samples of a file as FP32, the mean of its channels, resampled.

    Args:
        rate: Samples a second of the result.
        most_seconds: A longer sound is refused by what its header says, or while it is decoded.

    Raises:
        InvalidInput: it is no sound, broken, cut off, empty or too long.
    """
    if not data:
        raise InvalidInput("inputs has an empty sound", field="inputs", fix=_SEND)
    if not data.startswith(_BEGINS) and not _is_mp3(data):
        raise InvalidInput("the bytes of inputs are no sound", field="inputs", fix=f"{_SEND} {_OTHER}")
    try:
        _check_whole(data)
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check(file, most_seconds)
            samples = _samples(file, rate, most_seconds)
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # soundfile raises its own, and whatever its callbacks do
        text = str(error).partition(": ")[2] or str(error) or type(error).__name__
        raise InvalidInput(
            f"inputs has a sound that is broken ({text[:200]})", field="inputs", fix=_SEND
        ) from error
    if not samples.size:
        raise InvalidInput("inputs has a sound without samples", field="inputs", fix=_SEND)
    if not np.isfinite(samples).all():  # files of floats may hold anything
        raise InvalidInput("inputs has a sound whose samples are no finite numbers", field="inputs")
    return samples


def _is_mp3(data: bytes) -> bool:
    return len(data) > 3 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0


def _check_whole(data: bytes) -> None:
    """Refuse a WAV or OGG that ends too early, which libsndfile reads as far as it goes."""
    if data.startswith(b"OggS"):
        page = data.rindex(b"OggS")
        lengths = data[page + 27 : page + 27 + (data[page + 26 : page + 27] or b"\xff")[0]]
        if len(data) < page + 27 + len(lengths) + sum(lengths):
            raise _cut_off()
    if not data.startswith(b"RIFF"):
        return
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        # Programs that write into a pipe leave 0 or the largest number.
        if data[at : at + 4] == b"data":
            if len(data) < at + 8 + size < 0x7FFF_F000:
                raise _cut_off()
            return
        at += 8 + size + size % 2


def _check(file: Any, most_seconds: float) -> None:
    if file.format not in FORMATS:
        raise InvalidInput(
            f"inputs has a sound of the format {file.format}", field="inputs", fix=f"{_SEND} {_OTHER}"
        )
    if not 0 < file.channels <= _MOST_CHANNELS:
        raise InvalidInput(
            f"inputs has a sound of {file.channels} channels; from 1 to {_MOST_CHANNELS} are averaged",
            field="inputs",
            fix="Send one channel.",
        )
    if file.samplerate not in _RATES:
        raise InvalidInput(
            f"inputs has a sound of {file.samplerate} samples a second; it may have from {_RATES[0]} to "
            f"{_RATES[-1]}",
            field="inputs",
            fix="Resample it, for example to 16000.",
        )
    if file.frames > most_seconds * file.samplerate:
        raise _too_long(file.frames / file.samplerate, most_seconds)


def _too_long(seconds: float, most: float) -> InvalidInput:
    return InvalidInput(
        f"inputs has a sound of {seconds:.0f} s; at most {most:g} s are decoded",
        field="inputs",
        fix="Send it in pieces, or raise max_seconds in the model's [options].",
    )


def _cut_off() -> InvalidInput:
    return InvalidInput(
        "inputs has a sound that is cut off: it has fewer samples than its header says",
        field="inputs",
        fix="Send the whole file.",
    )


def _samples(file: Any, rate: int, most_seconds: float) -> Array:
    """Decode block by block, so that channels and a high rate take no memory."""
    own = file.samplerate
    stream = soxr.ResampleStream(own, rate, 1, "float32", "HQ") if own != rate else None
    blocks: list[Array] = []
    frames, size = 0, _BLOCK // file.channels
    while True:
        block = file.read(size, "float32", always_2d=True)
        frames += len(block)
        if frames > most_seconds * own:  # MP3 and OGG may hold more than they say
            raise _too_long(frames / own, most_seconds)
        is_last = len(block) < size
        mono = block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float32)
        blocks.append(mono if stream is None else stream.resample_chunk(mono, last=is_last))
        if is_last:
            break
    if frames < file.frames and file.format not in ("MP3", "OGG"):  # which only estimate it
        raise _cut_off()
    return np.ascontiguousarray(np.concatenate(blocks), np.float32)
