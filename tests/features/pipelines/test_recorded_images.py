"""Pixels and answers equal those that transformers gave for the same images."""

import base64
import functools
import hashlib
import json

import numpy as np
import pytest
from image_directories import FILES, IMAGES, image_directory, lines
from pipeline_answers import alike, asked

from salver.backends.protocol import LoadOptions
from salver.features.pipelines.backend import HuggingFaceBackend
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput
from salver.words.messages import ModelId

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


def in_base64(name):
    return base64.b64encode((FILES / name).read_bytes()).decode()


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
    alike(asked(model_of(case["model"]), body), case["output"])


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
