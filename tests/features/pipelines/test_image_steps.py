"""The step from files of images to pixels, beside Pillow and in a pipeline with a network."""

# ruff: noqa: RUF012  # what a suite is given

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_directories import FILES, IMAGES, image_directory, lines
from PIL import Image

from salver.features.pipelines.local import LocalPipeline
from salver.features.pipelines.steps.images import Pixels
from salver.testing.steps import StepConformance
from salver.words.errors import InvalidInput, LoadFailed

NAMES = ("rgb-64x48.png", "rgb-300x200.jpg", "gray-64x48.jpg")
IMAGES_OF = [Image.open(FILES / name).convert("RGB") for name in NAMES]
GIVEN = {"image": np.array([(FILES / name).read_bytes() for name in NAMES], object)}
SIZE = np.array([[image.height, image.width] for image in IMAGES_OF])
NOWHERE = Path("/nowhere")


def scaled(pixels, factor=1 / 255, mean=0.0, std=1.0):
    values = (np.asarray(pixels).astype("f8") * factor).astype("f4")
    return ((values - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)


def cropped(image):
    width, height = image.size
    short = min(image.size)
    image = image.resize((40 * width // short, 40 * height // short), Image.Resampling.BILINEAR)
    left, top = (image.width - 28) // 2, (image.height - 32) // 2
    return image.crop((left, top, left + 28, top + 32))


def letterboxed(image):
    part = min(30 / image.height, 50 / image.width)
    canvas = Image.new("RGB", (50, 30), (114, 114, 114))
    size = int(image.width * part), int(image.height * part)
    canvas.paste(image.resize(size, Image.Resampling.BICUBIC))
    return canvas


class TestCrop(StepConformance):
    name, inputs = "image", GIVEN
    options = {"height": 32, "width": 28, "shortest": 40, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    outputs = {"pixels": np.stack([scaled(cropped(i), mean=0.5, std=0.2) for i in IMAGES_OF]), "size": SIZE}


class TestLetterbox(StepConformance):
    name, inputs = "image", GIVEN
    options = {
        "height": 30,
        "width": 50,
        "fit": "letterbox",
        "resample": "bicubic",
        "factor": 1.0,
        "order": "bgr",
    }
    outputs = {"pixels": np.stack([scaled(letterboxed(i), 1.0)[::-1] for i in IMAGES_OF]), "size": SIZE}


class TestStretch(StepConformance):
    name, inputs = "image", GIVEN
    options = {"height": 30, "width": 50, "fit": "stretch"}
    outputs = {
        "pixels": np.stack([scaled(i.resize((50, 30), Image.Resampling.BILINEAR)) for i in IMAGES_OF]),
        "size": SIZE,
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"height": 0}, "edges must be from 1"),
        ({"width": 10_000}, "edges must be from 1"),
        ({"shortest": -1}, "edges must be from 1"),
        ({"std": (1.0, 0.0, 1.0)}, "`std` not 0"),
        ({"max_pixels": 0}, "`max_pixels` must be from 1"),
        ({"path": ".."}, "outside"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, text, tmp_path):
    with pytest.raises(LoadFailed, match=text):
        Pixels(**options).open(tmp_path)


def test_shapes_that_are_kept_have_no_common_size(tmp_path):
    image_directory(tmp_path, "detect-detr")
    with pytest.raises(LoadFailed, match="no common size"):
        Pixels(path="detect-detr").open(tmp_path)


def test_broken_images_fail_alone():
    run = Pixels(max_pixels=4_000).open_many(NOWHERE)
    found = run([{"image": np.array([data], object)} for data in GIVEN["image"]])
    assert isinstance(found[1], InvalidInput) and "300 x 200" in str(found[1])
    assert [isinstance(each, InvalidInput) for each in found] == [False, True, False]


def test_a_pipeline_gives_the_scores_of_the_directory(tmp_path):
    image_directory(tmp_path, "image-vit")
    shutil.copy(IMAGES / "networks" / "image-vit.onnx", tmp_path / "vit.onnx")
    (tmp_path / "pipeline.toml").write_text(
        """
        [steps.pixels]
        use = "image"
        path = "image-vit"
        [steps.network]
        model = "vit.onnx"
        inputs = { pixel_values = "pixels" }
        [steps.scores]
        use = "softmax"
        [steps.best]
        use = "top-k"
        k = 2
        [steps.label]
        use = "labels"
        file = "image-vit/config.json"
        [outputs]
        label = "label"
        score = "best.score"
        """
    )
    given = np.array([(FILES / "rgb-64x48.jpg").read_bytes()], object)
    with contextlib.closing(LocalPipeline(tmp_path)) as pipeline:
        answer = pipeline.run({"image": given})
    (wanted,) = [case["output"] for case in lines("cases.jsonl") if case["id"] == "image-vit/rgb-64x48.jpg"]
    assert [label.decode() for label in answer["label"][0]] == [row["label"] for row in wanted[:2]]
    assert np.allclose(answer["score"][0], [row["score"] for row in wanted[:2]], atol=1e-5)
