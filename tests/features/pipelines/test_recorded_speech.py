"""Answers for sounds, and texts made from texts, equal those that transformers gave for the directories."""

import functools
import json
import shutil

import numpy as np
import pytest
from pipeline_answers import alike, asked
from soaking import one_in
from speech_directories import SPEECH, in_base64, samples, sound, speech_cases, speech_directory

from salver.backends.protocol import LoadOptions
from salver.features.pipelines.backend import HuggingFaceBackend
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import Cancelled, DeadlineExceeded, InvalidInput, LoadFailed, SalverError
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor

pytest.importorskip("soundfile")
pytest.importorskip("onnxruntime")
CASES = speech_cases()
NOT_MADE = [case for case in CASES if case["task"] == "automatic-speech-recognition"]
MADE = [case for case in CASES if case["task"] != "automatic-speech-recognition"]


def loaded(path, task="", threads=1, **options):
    config = ModelConfig(options={**({"task": task} if task else {}), **options})
    manifest = Manifest(ModelId(path.name, "1"), path, "huggingface", "huggingface", config)
    return HuggingFaceBackend().load(manifest, LoadOptions(threads=threads))


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def load(name, task):
        return loaded(speech_directory(folder / (task or "own"), name), task)

    return lambda name, task="": load(name, task)


def body_of(case):
    given = case["input"]
    inputs = in_base64(sound(**given)) if isinstance(given, dict) else given
    return {"inputs": inputs, "parameters": case["parameters"]}


@pytest.mark.parametrize("case", [*NOT_MADE, *one_in(2, MADE)], ids=lambda case: case["id"][:60])
def test_answer_is_that_of_the_library(case, model_of):
    model = model_of(case["model"], case["task"])
    if "error" in case:
        with pytest.raises(InvalidInput, match="too short"):
            asked(model, body_of(case))
        return
    alike(asked(model, body_of(case)), case["output"])


@pytest.mark.parametrize("name", ["asr-whisper", "t5"])
def test_a_decoder_without_past_gives_the_same(name, tmp_path):
    path = speech_directory(tmp_path, name)
    (path / "decoder_with_past_model.onnx").unlink()
    case = next(case for case in CASES if case["model"] == name)
    alike(asked(loaded(path, case["task"]), body_of(case)), case["output"])


def test_files_below_onnx_with_an_ending(tmp_path):
    path = speech_directory(tmp_path, "bart-ends")
    (path / "onnx").mkdir()
    for file in path.glob("*.onnx"):
        shutil.move(file, path / "onnx" / f"{file.stem}_quantized.onnx")
    case = next(case for case in MADE if case["model"] == "bart-ends")
    model = loaded(path, case["task"], file="_quantized")
    alike(asked(model, body_of(case)), case["output"])
    with pytest.raises(LoadFailed, match="no encoder_model"):
        loaded(path, case["task"])


def request(model, value, **more):
    (spec,) = model.signature.inputs
    array = np.array([value], object)
    parameters = {"num_beams": 2, "max_new_tokens": 8}
    return InferRequest("m", (tensor(spec.name, array),), parameters=parameters, **more)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "bart-ends",
            [b"Paris is the capital.", b"My name is Wolfgang and I live in Berlin.", b"a", b"\xff"],
        ),
        ("asr-any", [sound(0.3), sound(6.0, seed=5), sound(1.0, seed=9), b"no sound"]),
    ],
)
def test_requests_answer_together_as_they_do_alone(name, values, model_of):
    model = model_of(name, "summarization" if name == "bart-ends" else "")
    requests = [request(model, value) for value in values]
    together = model.answer(requests)
    for each, found in zip(requests, together, strict=True):
        (alone,) = model.answer([each])
        if isinstance(alone, SalverError):
            assert isinstance(found, InvalidInput) and str(found) == str(alone)
        else:
            assert found.outputs["output"].tolist() == alone.outputs["output"].tolist()
    assert [isinstance(found, SalverError) for found in together] == [False, False, False, True]


@pytest.mark.parametrize("name", ["bart-ends", "asr-whisper", "asr-ctc"])
def test_a_run_ends_for_those_who_have_gone(name, model_of):
    model = model_of(name, "summarization" if name == "bart-ends" else "")
    value = b"Paris is the capital of France." if name == "bart-ends" else sound(0.5)
    asks = []

    def is_gone():
        asks.append(0)
        return len(asks) > 2 or name == "asr-ctc"

    requests = [
        request(model, value),
        request(model, value, is_gone=is_gone),
        request(model, value, deadline=0.0),
    ]
    if name == "asr-ctc":
        requests = [InferRequest("m", r.inputs, is_gone=r.is_gone, deadline=r.deadline) for r in requests]
    found, gone, late = model.answer(requests)
    (alone,) = model.answer(requests[:1])
    assert found.outputs["output"].tolist() == alone.outputs["output"].tolist()
    assert isinstance(gone, Cancelled) and isinstance(late, DeadlineExceeded)
    assert len(asks) <= 3


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("asr-whisper", {"language": "klingon"}, "It knows: de, en"),
        ("asr-whisper", {"task": "sing"}, "It knows: transcribe, translate"),
        ("asr-whisper", {"return_timestamps": "word"}, '"return_timestamps": true'),
        ("asr-whisper", {"max_new_tokens": 500}, "at most 40 tokens"),
        ("asr-whisper", {"num_beams": 17}, "must be from 1 to 16"),
        ("asr-whisper", {"do_sample": True}, "by search, not by chance"),
        ("asr-whisper", {"forced_bos_token_id": 5000}, "the network has 681 tokens"),
        ("asr-ctc", {"return_timestamps": True}, '"char" or "word"'),
        ("asr-whisper", {"prompt": "Berlin <|en|>"}, "it has special tokens"),
        ("asr-ctc", {"language": "en"}, "is for networks that make texts"),
        ("asr-ctc", {"prompt": "Berlin"}, "is for networks that make texts"),
        ("asr-ctc", {"chunk_length_s": 0.2, "stride_length_s": 0.1}, "pieces of 0.2 s are too short"),
        ("asr-ctc", {"chunk_length_s": -1}, "too short"),
        ("asr-ctc", {"chunk_length_s": "x"}, "a number"),
        ("t5", {"max_length": 1}, "at least 2"),
        ("t5", {"max_length": 100_000}, "at most 4096"),
        ("t5", {"tgt_lang": "xx"}, "no token of this model"),
        ("t5", {"src_lang": "xx"}, "tokenizer.json"),
        ("t5", {"temperature": 0.5}, "parameters.temperature is unknown"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name, parameters, text, model_of):
    model = model_of(name, "translation" if name == "t5" else "")
    inputs = "a" if name == "t5" else in_base64(sound(0.5))
    with pytest.raises(InvalidInput, match=text.replace("(", "[(]")):
        asked(model, {"inputs": inputs, "parameters": parameters})


def test_a_language_by_its_name_code_or_token(model_of):
    model = model_of("asr-any")
    answers = [
        asked(model, {"inputs": in_base64(sound(0.5)), "parameters": {"language": language, "num_beams": 1}})
        for language in ("de", "German", "<|de|>")
    ]
    assert answers[0] == answers[1] == answers[2]


def test_a_long_sound_needs_no_times(model_of):
    body = {"inputs": in_base64(sound(7.0, seed=3)), "parameters": {"num_beams": 1, "max_new_tokens": 9}}
    case = next(case for case in CASES if "7.0s" in case["id"] and '"max_new_tokens": 9' in case["id"])
    assert asked(model_of("asr-whisper"), body) == {"text": case["output"]["text"]}


def test_language_tokens_that_an_export_has_lost(tmp_path):
    lost = {"lang_to_id": None, "task_to_id": None, "no_timestamps_token_id": None, "is_multilingual": True}
    path = speech_directory(tmp_path, "asr-whisper", generation_config=lost)
    case = next(case for case in CASES if case["id"] == "asr-whisper/mono-0.5s-16k.wav")
    alike(asked(loaded(path), body_of(case)), case["output"])


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("asr-ctc", {"config": {"conv_kernel": [2]}}, "conv_kernel"),
        ("asr-ctc", {"preprocessor_config": {"feature_extractor_type": "Seamless"}}, "'Seamless'"),
        ("asr-ctc", {"tokenizer_config": {"pad_token": "<no>"}}, "has no '<no>'"),
        ("asr-ctc", {"vocab": {"x": -1}}, "numbers that are not"),
        ("asr-whisper", {"preprocessor_config": {"feature_size": 128}}, "input_features"),
        ("asr-whisper", {"generation_config": {"suppress_tokens": [9999]}}, "names the token 9999"),
        ("asr-whisper", {"generation_config": {"no_timestamps_token_id": 9999}}, "no tokens for times"),
        (
            "bart-ends",
            {
                "generation_config": {"decoder_start_token_id": None, "bos_token_id": None},
                "config": {"decoder_start_token_id": None, "bos_token_id": None},
            },
            "no decoder_start",
        ),
        ("bart-ends", {"generation_config": {"num_beams": "x"}}, "broken"),
    ],
)
def test_directories_that_do_not_fit_are_refused(name, changed, text, tmp_path):
    with pytest.raises(SalverError, match=text):
        loaded(speech_directory(tmp_path, name, **changed))


def test_options(tmp_path):
    path = speech_directory(tmp_path, "asr-ctc")
    model = loaded(path, max_seconds="1", threads=2)
    with pytest.raises(InvalidInput, match="at most 1 s"):
        asked(model, {"inputs": in_base64(sound(1.3, seed=1))})
    for options, text in (({"max_seconds": "0"}, "max_seconds is '0'"), ({"decode": "fast"}, "other tasks")):
        with pytest.raises(LoadFailed, match=text):
            loaded(path, **options)


def test_the_spectrogram_is_that_of_the_library():
    from salver.features.pipelines.whisper import features

    recorded = json.loads((SPEECH / "log-mel.json").read_text())
    heard = samples(1.3, seed=1)[:, 0].astype(np.float32) / 32768
    found = features(heard, 16_000, 400, 160, 80, 80_000)
    for column, values in recorded["columns"].items():
        assert np.allclose(found[:, int(column)], values, atol=1e-4), column
