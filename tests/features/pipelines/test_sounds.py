"""Decoding of sounds: samples beside the libraries' own, and hostile files."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
from speech_directories import samples, wav

pytest.importorskip("soundfile")
pytest.importorskip("soxr")
import soundfile
import soxr

from salver.features.pipelines.sounds import load, plain_bytes
from salver.words.errors import InvalidInput

TONE = samples(1.0, 44_100, 2)


def encoded(form, subtype=None, pcm=TONE, rate=44_100):
    file = io.BytesIO()
    soundfile.write(file, pcm, rate, format=form, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 44_100),
        ("WAV", "FLOAT", 16_000),
        ("WAVEX", "PCM_24", 8_000),
        ("FLAC", None, 96_000),
        ("OGG", "VORBIS", 44_100),
        ("OGG", "OPUS", 48_000),
        ("MP3", None, 44_100),
    ],
)
def test_samples_are_those_of_the_libraries(form, subtype, rate):
    data = encoded(form, subtype, rate=rate)
    whole, own = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    wanted = soxr.resample(whole.mean(axis=1), own, 16_000, "HQ")
    assert np.allclose(load(data, 16_000), wanted, atol=1e-6)


def test_blocks_join_without_a_seam():
    pcm = np.repeat(samples(1.0, 44_100, seed=4), 30, axis=0)[:, [0, 0]]
    data = encoded("FLAC", pcm=pcm)
    wanted = soxr.resample(pcm[:, 0].astype(np.float32) / 32768, 44_100, 16_000, "HQ")
    assert np.allclose(load(data, 16_000), wanted, atol=1e-6)


def flac_of(seconds):
    """Return a FLAC whose header claims so many seconds at 44.1 kHz."""
    data = bytearray(encoded("FLAC", pcm=TONE[:4410]))
    at = 8 + 10  # of the packed rate, channels, bits and number of samples
    packed = int.from_bytes(data[at : at + 8], "big")
    claimed = (packed >> 36 << 36) | (seconds * 44_100)
    data[at : at + 8] = claimed.to_bytes(8, "big")
    return bytes(data)


def header(channels=1, rate=16_000, size=32, sent=32, bits=16):
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    body = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + b"\1" * sent
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


WAV, FLAC, OGG, MP3 = (encoded(form) for form in ("WAV", "FLAC", "OGG", "MP3"))
HOSTILE = [
    (b"", "an empty sound"),
    (b"hello, I am text, and rather long", "no sound"),
    (b"\x00\x00\x00\x20ftypM4A isom", "no sound"),
    (b"\x1aE\xdf\xa3webm", "no sound"),
    (WAV[:60_000], "cut off"),
    (WAV[:-2], "cut off"),
    (WAV[:44], "cut off"),
    (WAV[:30], "sound"),
    (header(sent=0, size=0), "without samples"),
    (FLAC[: len(FLAC) // 2], "broken"),
    (FLAC[:42], "sound"),
    (OGG[: len(OGG) // 2], "cut off"),
    (OGG[:100], "cut off"),
    (OGG[:27], "broken"),
    (MP3[:3], "no sound"),
    (MP3[:40], "broken"),
    (flac_of(100_000), "a sound of 100000 s; at most 1800 s"),
    (flac_of(1000), "broken"),
    (header(channels=9), "9 channels"),
    (header(rate=500), "500 samples a second"),
    (header(rate=4_000_000), "4000000 samples a second"),
    (header(channels=0), "sound"),
    (encoded("WAV", "FLOAT", np.full((100, 1), np.nan)), "no finite numbers"),
    (b"RIFF" + b"\xff" * 200, "sound"),
    (b"fLaC" + b"\xff" * 200, "sound"),
    (b"OggS" + b"\xff" * 200, "cut off"),
    (b"ID3" + b"\xff" * 200, "broken"),
    (encoded("AIFF"), "no sound"),
    (b"RIFF\x10\0\0\0AVI LIST", "sound"),
]


@pytest.mark.parametrize(
    ("data", "text"), HOSTILE, ids=[f"{i}-{text}" for i, (_, text) in enumerate(HOSTILE)]
)
def test_hostile_files_are_refused(data, text):
    tracemalloc.start()
    with pytest.raises(InvalidInput, match=text) as refused:
        load(data, 16_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.field == "inputs"
    assert most < 8 << 20


def test_more_than_the_header_says_is_refused_while_it_is_decoded():
    # The header of an MP3 only estimates its length.
    data = encoded("MP3", pcm=np.repeat(TONE[:, :1], 3, axis=0))
    with pytest.raises(InvalidInput, match="at most 2 s"):
        load(data + data, 16_000, 2)


def test_a_pipe_leaves_the_size_open():
    for size in (0xFFFFFFFF, 0x7FFFFFFF):
        assert len(load(header(size=size, sent=3200), 16_000)) == 1600


def test_base64_and_urls():
    assert plain_bytes(WAV) == WAV
    for value in ("https://x/y.wav", "%%%"):
        with pytest.raises(InvalidInput, match=r"a URL|neither a sound nor valid base64"):
            plain_bytes(value)


def test_silence_beyond_a_sound_is_as_if_it_had_been_there():
    from salver.features.pipelines.log_mel import log_mel
    from salver.features.pipelines.whisper import features

    for count in (1, 400, 15_000, 15_440, 15_441, 15_999, 16_000, 20_000):
        heard = samples(2.0)[:count, 0].astype(np.float32) / 32768
        padded = np.zeros(max(16_000, count), np.float32)
        padded[:count] = heard
        assert np.allclose(features(heard, 16_000, 400, 160, 80, 16_000), log_mel(padded), atol=1e-6), count
    assert wav(TONE[:1, :1])
