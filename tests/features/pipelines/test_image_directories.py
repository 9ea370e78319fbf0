"""What a directory for images may say, what is refused by name, and what the options of decoding change."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_directories import directory
from image_directories import FILES, image_directory
from PIL import Image

from salver.backends.protocol import LoadOptions, RunnableModel
from salver.features.pipelines import images
from salver.features.pipelines.backend import HuggingFaceBackend
from salver.features.pipelines.processor import read_processor
from salver.testing.backends import BackendConformance, Case
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import InvalidInput, LoadFailed, MissingExtra
from salver.words.messages import ModelId


def load(path: Path, **options: str) -> RunnableModel:
    config = ModelConfig(options=options)
    manifest = Manifest(ModelId("m", "1"), path, "huggingface", "huggingface", config)
    return HuggingFaceBackend().load(manifest, LoadOptions())


class TestImages(BackendConformance):
    backend = HuggingFaceBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        path = image_directory(folder, "image-vit")
        files = [(FILES / name).read_bytes() for name in ("rgb-64x48.png", "rgb-300x200.jpg")]
        inputs = {"image": np.array(files, object)}
        model = load(path)
        wanted = dict(model.run(inputs))
        model.close()
        return Case(path, inputs, wanted)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"image_processor_type": "os.system"}, "names the image processor 'os.system', which is unknown"),
        ({"image_processor_type": "ImageGPTImageProcessor"}, "which is unknown"),
        ({"pad_size": {"height": 9, "width": 9}}, "names a pad_size"),
        ({"size": {"width": 3}}, "do not fit together"),
        ({"size": {"height": -3, "width": 3}}, "do not fit together"),
        ({"size": {"shortest_edge": 0}}, "do not fit together"),
        ({"resample": 17}, "do not fit together"),
        ({"image_mean": [0.5]}, "do not fit together"),
        ({"size": "large"}, "is missing or broken"),
        ({"size": {"height": 40, "width": 40}}, "makes images of 40 x 40, and the network takes 32 x 32"),
    ],
)
def test_processors_that_do_not_fit_are_refused(tmp_path: Path, changed: Any, text: str) -> None:
    with pytest.raises(LoadFailed, match=text):
        load(image_directory(tmp_path, "image-vit", **changed))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"decode": "quick"}, "decode is 'quick'"),
        ({"max_pixels": "-1"}, "max_pixels is '-1'"),
        ({"max_pixels": "9" * 20}, "max_pixels is"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: Any, text: str) -> None:
    with pytest.raises(LoadFailed, match=text) as refused:
        load(image_directory(tmp_path, "image-vit"), **options)
    assert refused.value.field == f"options.{next(iter(options))}"
    with pytest.raises(LoadFailed, match="decode is an option of other tasks"):
        load(directory(tmp_path, "textclass-single"), decode="fast")


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.backends.installed.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pillow") as refused:
        load(image_directory(tmp_path, "image-vit"))
    assert "salver[images]" in (refused.value.fix or "")


def test_networks_of_other_tasks_are_refused(tmp_path: Path) -> None:
    path = image_directory(tmp_path, "image-vit")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architectures": ["DetrForObjectDetection"]}))
    with pytest.raises(LoadFailed, match="gives logits and pred_boxes; this one gives logits"):
        load(path)
    text = directory(tmp_path, "textclass-single")
    (text / "preprocessor_config.json").write_text("{}")
    with pytest.raises(LoadFailed, match=r"takes input_ids.*an image gives pixel_values"):
        load(text, task="image-classification")


def test_names_of_older_and_newer_files(tmp_path: Path) -> None:
    path = image_directory(tmp_path, "image-vit")
    wanted = read_processor(path, "vit").sizes
    file = path / "preprocessor_config.json"
    said = json.loads(file.read_text())
    said["feature_extractor_type"] = "ViTFeatureExtractor"
    del said["image_processor_type"]
    file.write_text(json.dumps(said))
    assert read_processor(path, "vit").sizes == wanted
    (path / "processor_config.json").write_text(json.dumps({"image_processor": said}))
    file.unlink()
    assert read_processor(path, "vit").sizes == wanted
    del said["feature_extractor_type"]  # then the model's type decides
    file.write_text(json.dumps(said))
    assert read_processor(path, "vit").sizes == wanted
    file.unlink()
    (path / "processor_config.json").unlink()
    with pytest.raises(LoadFailed, match=r"preprocessor_config.json is missing"):
        load(path)


def photo(width: int, height: int) -> bytes:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    file = io.BytesIO()
    Image.fromarray((ramp + 40 * np.sin(ramp)).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def test_fast_decoding_is_nearly_the_same() -> None:
    plan = images.Plan(64, 96, (56, 56))
    exact = images.load(photo(600, 400))
    assert (exact.image.size, exact.height, exact.width) == ((600, 400), 400, 600)
    small = images.load(photo(600, 400), plan=lambda height, width: plan, is_fast=True)
    assert small.image.size == (150, 100), "a quarter is still larger than the plan"
    assert (small.height, small.width) == (400, 600)
    pixels = images.fitted(exact.image, plan).astype(int)
    cropped = images.fitted(exact.image, plan, is_near=True).astype(int)
    assert np.abs(cropped - pixels).max() <= 1 and (cropped != pixels).mean() < 0.01
    assert np.abs(images.fitted(small.image, plan, is_near=True) - pixels).mean() < 8


def test_steps_by_themselves_are_the_whole() -> None:
    data = (FILES / "rgb-300x200.jpg").read_bytes()
    plan = images.Plan(40, 60, (32, 50))
    whole = images.fitted(images.load(data).image, plan)
    pixels = images.center_crop(images.resize(images.decode(data), 40, 60), 32, 50)
    assert np.array_equal(whole, pixels) and pixels.shape == (32, 50, 3)


def test_an_image_is_turned_upright_before_its_size_is_told() -> None:
    turned = images.load((FILES / "exif6-64x48.jpg").read_bytes())
    assert (turned.height, turned.width) == (64, 48) and turned.image.size == (48, 64)


def test_sizes_that_need_too_much_memory_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("1", (2, 1_000_000)).save(file, "PNG")
    monkeypatch.setattr(images, "_decoded", None)
    with pytest.raises(InvalidInput, match="which would become 224 x 224"):
        images.load(file.getvalue(), plan=lambda height, width: images.Plan(224, 224))
