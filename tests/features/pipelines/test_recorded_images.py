"""Pixels and answers equal those that transformers gave for the same images."""

import base64
import functools
import hashlib
import json

import numpy as np
import pytest
from image_directories import FILES, IMAGES, image_directory, lines

from salver.backends.protocol import LoadOptions
from salver.encoding.bodies import HttpBody
from salver.features.pipelines.backend import HuggingFaceBackend
from salver.features.pipelines.forms import PipelineJson
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import InferResponse, ModelId
from salver.words.tensor import tensor

pytest.importorskip("PIL")
pytest.importorskip("onnxruntime")
from salver.features.pipelines import images
from salver.features.pipelines.processor import read_processor
from salver.features.pipelines.tasks.images import corners, scored

CASES = lines("cases.jsonl")
PIXELS = lines("pixels.jsonl")


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def load(name):
        manifest = Manifest(ModelId(name, "1"), image_directory(folder, name), "huggingface", "huggingface")
        return HuggingFaceBackend().load(manifest, LoadOptions(threads=2))

    return load


def asked(model, body):
    codec = PipelineJson()
    request = codec.decode(HttpBody("m", "1", json.dumps(body).encode()), model.signature)
    (answer,) = model.answer([request])
    if isinstance(answer, SalverError):
        raise answer
    outputs = tuple(tensor(name, array) for name, array in answer.outputs.items())
    return json.loads(codec.encode(request, InferResponse("m", "1", outputs)).body)


def in_base64(name):
    return base64.b64encode((FILES / name).read_bytes()).decode()


def alike(got, want):
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(alike(got[key], want[key]) for key in want)
    if isinstance(want, list):
        return len(got) == len(want) and all(map(alike, got, want))
    return abs(got - want) <= 1e-5 if isinstance(want, float) else got == want


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_answer_is_that_of_the_library(case, model_of):
    given = case["input"]
    inputs = [in_base64(name) for name in given] if isinstance(given, list) else in_base64(given)
    body = {"inputs": inputs, "parameters": case["parameters"]}
    if "error" in case:
        with pytest.raises(InvalidInput) as refused:
            asked(model_of(case["model"]), body)
        assert refused.value.field == "inputs" and "JPEG, PNG" in refused.value.fix
        return
    got = asked(model_of(case["model"]), body)
    assert alike(got, case["output"]), (got, case["output"])


@pytest.mark.parametrize("is_by_pillow", [True, False])
@pytest.mark.parametrize("case", PIXELS, ids=[json.dumps(case["config"])[25:90] for case in PIXELS])
def test_pixels_are_those_of_the_library_bit_by_bit(case, is_by_pillow, tmp_path, monkeypatch):
    if is_by_pillow:
        monkeypatch.setattr(images, "_DECODE_JPEG", None)
    elif images._DECODE_JPEG is None:
        pytest.skip("simplejpeg is not installed")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(case["config"]))
    processor = read_processor(tmp_path)
    assert case["pixels"]
    for name, (shape, digest) in case["pixels"].items():
        image = images.load((FILES / name).read_bytes()).image
        pixels = images.fitted(image, processor.sizes.plan(image.height, image.width), processor.resample)
        scaled = processor.scale(pixels)
        assert list(scaled.shape) == shape, name
        assert hashlib.sha256(scaled.tobytes()).hexdigest()[:16] == digest, name


@pytest.mark.parametrize("case", json.loads((IMAGES / "detections.json").read_text()))
def test_objects_are_those_of_the_library(case):
    most = {"deformable_detr": 100, "conditional_detr": 100, "rt_detr": 0}.get(case["model_type"])
    scores, labels, queries = scored(np.array(case["logits"], np.float32), most)
    boxes = corners(np.array(case["boxes"], np.float32), 48, 64)[queries]
    kept = scores > 0.3
    assert kept.sum() > 2
    assert np.allclose(scores[kept], case["scores"], atol=1e-6)
    assert labels[kept].tolist() == case["labels"]
    assert boxes[kept].astype(int).tolist() == case["corners"]
