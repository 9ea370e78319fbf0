"""Steps on sounds, beside formulas and a library's recorded answers, and in a pipeline with a network."""

# ruff: noqa: RUF012  # what a suite is given

import contextlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_directories import SPEECH, in_base64, samples, sound, speech_cases, speech_directory

pytest.importorskip("soundfile")
from salver.features.pipelines.ctc import beam_search
from salver.features.pipelines.local import LocalPipeline
from salver.features.pipelines.log_mel import filters, log_mel
from salver.features.pipelines.steps.sounds import CtcDecode, LogMel, Sound, Window
from salver.testing.steps import StepConformance
from salver.words.errors import InvalidInput, LoadFailed

NOWHERE = Path("/nowhere")
HEARD = [
    samples(seconds, seed=seed)[:, 0].astype(np.float32) / 32768 for seconds, seed in ((0.1, 1), (0.05, 2))
]
LONGEST = np.stack([HEARD[0], np.pad(HEARD[1], (0, 800))])


class TestSound(StepConformance):
    name, pads = "sound", True
    inputs = {"sound": np.array([sound(0.1, seed=1), in_base64(sound(0.05, seed=2)).encode()], object)}
    outputs = {"samples": LONGEST, "length": np.array([1600, 800])}


class TestSoundOfALength(StepConformance):
    name = "sound"
    options = {"seconds": 0.075, "normalise": True}
    inputs = TestSound.inputs
    outputs = {
        "samples": np.stack(
            [
                (HEARD[0][:1200] - HEARD[0][:1200].mean()) / math.sqrt(HEARD[0][:1200].var() + 1e-7),
                np.pad((HEARD[1] - HEARD[1].mean()) / math.sqrt(HEARD[1].var() + 1e-7), (0, 400)),
            ]
        ),
        "length": np.array([1200, 800]),
    }
    atol = 1e-5


class TestWindow(StepConformance):
    name = "window"
    options = {"size": 4, "hop": 2}
    inputs = {"samples": np.arange(14, dtype=np.float32).reshape(2, 7), "length": np.array([7, 3])}
    outputs = {
        "samples": np.float32([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 0], [7, 8, 9, 0]]),
        "offsets": np.array([0, 3, 4]),
    }


class TestWholeWindows(StepConformance):
    name = "window"
    options = {"size": 3, "partial": False}
    inputs = {"samples": np.arange(14, dtype=np.float32).reshape(2, 7)}
    outputs = {
        "samples": np.float32([[0, 1, 2], [3, 4, 5], [7, 8, 9], [10, 11, 12]]),
        "offsets": np.array([0, 2, 4]),
    }


def by_definition(row, rate, n_fft, hop, bands, scaling):
    """Return a spectrogram by the definitions of the transform and of the mel scale."""

    def hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * math.log(rate / 2 / 1000, 6.4)
    edges = [hertz(top * i / (bands + 1)) for i in range(bands + 2)]
    half = n_fft // 2
    padded = [*row[half:0:-1], *row, *row[-2 : -half - 2 : -1]]
    frames = []
    for start in range(0, len(padded) - n_fft + 1, hop):
        part = [padded[start + n] * (0.5 - 0.5 * math.cos(2 * math.pi * n / n_fft)) for n in range(n_fft)]
        powers = [
            abs(sum(x * np.exp(-2j * math.pi * k * n / n_fft) for n, x in enumerate(part))) ** 2
            for k in range(half + 1)
        ]
        own = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k, power in enumerate(powers):
                f = k * rate / n_fft
                weight = max(0.0, min((f - low) / (middle - low), (high - f) / (high - middle)))
                total += power * weight * 2 / (high - low)
            own.append(total)
        frames.append(own)
    logs = np.maximum(np.array(frames).T, 1e-10)
    if scaling == "ln":
        return np.log(logs)
    logs = np.log10(logs)[:, :-1]
    return (np.maximum(logs, logs.max() - 8) + 4) / 4


SHORT = np.stack([HEARD[0][:300], HEARD[1][:300]])


class TestLogMel(StepConformance):
    name = "log-mel"
    options = {"rate": 8000, "n_fft": 64, "hop": 40, "bands": 6}
    inputs = {"samples": SHORT}
    outputs = {"features": np.float32([by_definition(row, 8000, 64, 40, 6, "whisper") for row in SHORT])}
    atol = 1e-5


class TestNaturalLogMel(StepConformance):
    name = "log-mel"
    options = {"rate": 8000, "n_fft": 50, "hop": 25, "bands": 5, "scaling": "ln"}
    inputs = {"samples": SHORT}
    outputs = {"features": np.float32([by_definition(row, 8000, 50, 25, 5, "ln") for row in SHORT])}
    atol = 1e-4


def test_the_spectrogram_is_that_of_librosa():
    recorded = json.loads((SPEECH / "librosa.json").read_text())
    t = np.arange(4000) / 8000
    heard = 0.5 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * (200 + 600 * t) * t)
    for scaling in ("power", "db"):
        found = log_mel(heard.astype(np.float32), 8000, 256, 100, 24, 50, 3800, scaling)
        assert np.allclose(found[:, ::5], recorded[scaling], rtol=1e-4, atol=1e-3), scaling


def test_filters_have_the_same_area():
    # With enough points; each triangle has the height 2 / width.
    areas = filters(16_000, 1 << 14, 40).sum(axis=1) * 16_000 / (1 << 14)
    assert np.allclose(areas, 1, atol=1e-3)


LETTERS = ("", " ", "a", "b")
BEST = np.array([[2, 2, 0, 2, 1, 3, 0], [0, 3, 3, 3, 0, 0, 1]])
LOGITS = np.float32(np.eye(4))[BEST]


class TestCtcDecode(StepConformance):
    name = "ctc-decode"
    options = {"tokens": LETTERS}
    inputs = {"logits": LOGITS, "frames": np.array([7, 3])}
    outputs = {"text": np.array([b"aa b", b"b"], object)}


class TestCtcSearch(StepConformance):
    name = "ctc-decode"
    options = {"tokens": LETTERS, "beams": 8}
    inputs = {"logits": LOGITS * 9}
    outputs = TestCtcDecode.outputs


def test_letters_may_be_in_a_file(tmp_path):
    (tmp_path / "letters.json").write_text('["", " ", "a", "b"]')
    run = CtcDecode(file="letters.json").open(tmp_path)
    assert run({"logits": LOGITS})["text"].tolist() == [b"aa b", b"b"]


@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_search_finds_the_most_likely_letters(frames, letters, seed):
    logits = np.random.default_rng(seed).normal(size=(frames, letters)) * 2
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total = {}
    for path in itertools.product(range(letters), repeat=frames):
        key = tuple(number for number, _ in itertools.groupby(path) if number)
        total[key] = total.get(key, 0.0) + math.prod(scores[i, n] for i, n in enumerate(path))
    best = max(total, key=total.__getitem__)
    found, score = beam_search(logits, 0, 2000)
    assert tuple(found) == best
    assert math.isclose(math.exp(score), total[best], rel_tol=1e-9)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Sound(rate=10), "`rate` must be"),
        (Sound(seconds=-1), "from 0 to"),
        (Window(size=0), "`size` must be"),
        (Window(size=1000, hop=1), "1/64"),
        (LogMel(low=9000), "`low` must be below"),
        (LogMel(n_fft=1), "`n_fft` must be"),
        (LogMel(hop=1), "1/64"),
        (LogMel(bands=300), "`bands` must be"),
        (CtcDecode(), "one of `path`, `tokens` and `file`"),
        (CtcDecode(file="absent.json"), "no list of letters"),
        (CtcDecode(tokens=("a",), blank=1), "`blank` is"),
        (CtcDecode(tokens=("a",), beams=0), "`beams` must be"),
        (CtcDecode(path=".."), "outside"),
    ],
)
def test_options_that_do_not_fit_are_refused(step, text, tmp_path):
    with pytest.raises(LoadFailed, match=text):
        step.open(tmp_path)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="more than 200"):
        LogMel().open(NOWHERE)({"samples": np.zeros((1, 200), np.float32)})
    with pytest.raises(InvalidInput, match="4 scores a frame for 2"):
        CtcDecode(tokens=("", "a")).open(NOWHERE)({"logits": LOGITS})
    with pytest.raises(InvalidInput, match="from 0 to 7"):
        CtcDecode(tokens=LETTERS).open(NOWHERE)({"logits": LOGITS, "frames": np.array([1, 8])})


def test_broken_sounds_fail_alone():
    files = [sound(0.1), b"no sound", sound(0.2)]
    found = Sound().open_many(NOWHERE)([{"sound": np.array([file], object)} for file in files])
    assert [isinstance(each, InvalidInput) for each in found] == [False, True, False]


def test_a_pipeline_gives_the_text_of_the_directory(tmp_path):
    speech_directory(tmp_path, "asr-ctc").joinpath("model.onnx").rename(tmp_path / "ctc.onnx")
    (tmp_path / "pipeline.toml").write_text(
        """
        [steps.samples]
        use = "sound"
        normalise = true
        [steps.network]
        model = "ctc.onnx"
        inputs = { input_values = "samples" }
        [steps.text]
        use = "ctc-decode"
        path = "asr-ctc"
        inputs = { logits = "network" }
        """
    )
    (case,) = [case for case in speech_cases() if case["id"] == "asr-ctc/stereo-0.4s-44k1.wav"]
    with contextlib.closing(LocalPipeline(tmp_path)) as pipeline:
        answer = pipeline.run({"sound": np.array([sound(**case["input"])], object)})
    assert answer["text"].tolist() == [case["output"]["text"].encode()]
