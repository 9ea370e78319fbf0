"""Spectrograms on the mel scale: samples in, what networks for speech take out.

The scale is Slaney's (linear below 1 kHz), filters have unit area, windows are periodic Hann windows, and the
ends are mirrored, as in librosa's ``melspectrogram`` and OpenAI's Whisper.

Pure.
"""

import functools
from typing import Final, Literal

import numpy as np

from salver.words.tensor import Array

#: How powers become logarithms: as Whisper does, the natural one, decibels, or not at all.
Scaling = Literal["whisper", "ln", "db", "power"]
_LEAST: Final = 1e-10
_LINEAR_HZ: Final = 200.0 / 3  # Hz of a mel below the knee
_KNEE_HZ: Final = 1000.0
_STEP: Final = np.log(6.4) / 27.0  # logarithm of the ratio of frequencies one mel apart, above it
#: Frames that are transformed at a time, which bounds the memory.
_FRAMES: Final = 2048


def _mel_of(hertz: Array) -> Array:
    above = np.log(np.maximum(hertz, _KNEE_HZ) / _KNEE_HZ) / _STEP + _KNEE_HZ / _LINEAR_HZ
    return np.where(hertz < _KNEE_HZ, hertz / _LINEAR_HZ, above)


def _hertz_of(mels: Array) -> Array:
    knee = _KNEE_HZ / _LINEAR_HZ
    above = _KNEE_HZ * np.exp(_STEP * (np.maximum(mels, knee) - knee))
    return np.where(mels < knee, mels * _LINEAR_HZ, above)


@functools.cache
def filters(rate: int, n_fft: int, bands: int, low: float = 0.0, high: float = 0.0) -> Array:
    """Return triangular filters, FP64 [bands, n_fft // 2 + 1].

    Args:
        low, high: Lowest and highest frequency in Hz; a ``high`` of 0 is half the rate.

    >>> filters(16_000, 400, 80).shape
    (80, 201)
    """
    ends = _mel_of(np.array([low, high or rate / 2]))
    edges = _hertz_of(np.linspace(ends[0], ends[1], bands + 2))
    bins = np.fft.rfftfreq(n_fft, 1 / rate)
    slopes = edges[:, None] - bins
    widths = np.diff(edges)[:, None]
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    scaled: Array = triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return scaled


def _powers(samples: Array, n_fft: int, hop: int, bands: Array) -> Array:
    """Return the power in each band, FP32 [bands, frames], the frames being centred."""
    padded = np.pad(samples, n_fft // 2, mode="reflect")
    window = np.hanning(n_fft + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    powers = np.empty((len(bands), len(frames)), np.float32)
    for start in range(0, len(frames), _FRAMES):
        part = np.fft.rfft(frames[start : start + _FRAMES] * window)
        powers[:, start : start + _FRAMES] = bands @ (part.real**2 + part.imag**2).T
    return powers


def log_mel(
    samples: Array,
    rate: int = 16_000,
    n_fft: int = 400,
    hop: int = 160,
    bands: int = 80,
    low: float = 0.0,
    high: float = 0.0,
    scaling: Scaling = "whisper",
) -> Array:
    """Return a spectrogram on the mel scale, FP32 [bands, frames].

    Args:
        samples: FP32 ``[n]``; ``n`` is larger than half of ``n_fft``.
        scaling: ``whisper`` = log10, at most 8 below the largest value, then (x + 4) / 4, without the last
            frame; ``ln``; ``db`` = 10 log10, at most 80 below the largest value; ``power``.

    >>> log_mel(np.zeros(16_000, np.float32)).shape
    (80, 100)
    """
    powers = _powers(samples, n_fft, hop, filters(rate, n_fft, bands, low, high))
    if scaling == "power":
        return powers
    powers = np.maximum(powers, np.float32(_LEAST))
    logs: Array = np.log(powers) if scaling == "ln" else np.log10(powers)
    if scaling == "db":
        logs *= np.float32(10)
        logs = np.maximum(logs, logs.max() - np.float32(80))
    elif scaling == "whisper":
        logs = logs[:, :-1]
        logs = (np.maximum(logs, logs.max() - np.float32(8)) + np.float32(4)) / np.float32(4)
    return logs
