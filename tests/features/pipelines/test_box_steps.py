"""Steps on boxes in images: against formulas, Pillow and brute force, and with the conformance suite."""

# ruff: noqa: RUF012  # what a suite is given

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import special

from salver.features.pipelines.images import part_of
from salver.features.pipelines.steps.boxes import Boxes, Crop, SsdDecode, TextBoxes
from salver.features.pipelines.steps.images import Pixels
from salver.features.pipelines.steps.step import OFFSETS
from salver.features.pipelines.text_areas import smallest_rectangle, text_areas
from salver.testing.steps import StepConformance
from salver.words.errors import InvalidInput, LoadFailed

NOWHERE = Path("/nowhere")
RANDOM = np.random.default_rng(11)


def png(height: int, width: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


RAW = RANDOM.normal(size=(2, 6, 7)).astype(np.float32)
LOGITS = RANDOM.normal(size=(2, 6, 3)).astype(np.float32)
#: Two anchors in the middle of the first layer's only cell, one in each of the second's four.
CENTERS = np.array([[4, 4], [4, 4], [2, 2], [6, 2], [2, 6], [6, 6]], np.float32) / 8


class TestSsdDecode(StepConformance):
    name, options = "ssd-decode", {"edge": 8, "strides": (8, 4), "anchors": (2, 1)}
    inputs = {"raw": RAW, "logits": LOGITS}
    outputs = {
        "boxes": np.concatenate([RAW[..., :2] / 8 + CENTERS, RAW[..., 2:4] / 8], axis=-1),
        "scores": special.expit(LOGITS.max(-1)),
    }


class TestBoxes(StepConformance):
    """A letterbox of 100 x 50 pixels in 10 x 10: a tenth, in the upper half."""

    name, options = "boxes", {"height": 10, "width": 10, "fit": "letterbox", "unit": "pixels"}
    inputs = {
        "boxes": np.array([[[5, 2, 4, 2]], [[9, 1, 4, 2]]], np.float32),
        "size": np.array([[50, 100], [10, 10]]),
    }
    outputs = {"boxes": np.array([[[30, 10, 70, 30]], [[7, 0, 10, 2]]], np.float32)}


AREAS = np.zeros((2, 1, 40, 60), np.float32)
AREAS[0, 0, 20:30, 5:25] = 0.9
AREAS[0, 0, 5:10, 30:50] = 0.6
AREAS[0, 0, 35:38, 40:50] = 0.4  # too faint
#: Area / circumference * 1.6 of rectangles that are 19 x 9 and 19 x 4 from the first to the last pixel.
WIDE, NARROW = 19 * 9 / 56 * 1.6, 19 * 4 / 46 * 1.6


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)


class TestTextBoxes(StepConformance):
    name, options = "text-boxes", {"fit": "stretch"}
    inputs = {"areas": AREAS, "size": np.array([[40, 60], [40, 60]])}
    outputs = {
        "box": np.stack(
            [
                rectangle(30.5 - NARROW, 5.5 - NARROW, 49.5 + NARROW, 9.5 + NARROW),
                rectangle(5.5 - WIDE, 20.5 - WIDE, 24.5 + WIDE, 29.5 + WIDE),
            ]
        ),
        "score": np.array([0.6, 0.9], np.float32),
        OFFSETS: [0, 2, 2],
    }
    atol = 1e-5


FILE = png(20, 30)
PIXELS = np.asarray(Image.open(io.BytesIO(FILE))).astype(np.float32)


class TestCrop(StepConformance):
    """Boxes of the size of the network are cut out as they are; narrow ones have zeros beside them."""

    name, options = "crop", {"height": 4, "width": 6, "factor": 1.0}
    inputs = {
        "image": np.array([FILE, FILE], object),
        "box": np.array([[3, 2, 9, 6], [10, 10, 12, 14]], np.float32),
    }
    outputs = {
        "pixels": np.stack(
            [
                PIXELS[2:6, 3:9].transpose(2, 0, 1),
                np.pad(PIXELS[10:14, 10:12].transpose(2, 0, 1), ((0, 0), (0, 0), (0, 4))),
            ]
        )
    }


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_crop_is_that_of_pillow(data):
    """Whole boxes: cut out by Pillow and resized by it."""
    image = Image.open(io.BytesIO(FILE))
    x1, y1 = data.draw(st.integers(0, 28)), data.draw(st.integers(0, 18))
    x2, y2 = data.draw(st.integers(x1 + 1, 30)), data.draw(st.integers(y1 + 1, 20))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    found = part_of(image, rectangle(x1, y1, x2, y2).astype(float), height, width)
    wide = min(width, -(-height * (x2 - x1) // (y2 - y1)))
    cut = image.crop((x1, y1, x2, y2)).resize((wide, height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(cut))


def test_parts_are_turned_upright():
    image = Image.open(io.BytesIO(FILE))
    plain = part_of(image, rectangle(2, 3, 12, 8).astype(float), 5, 10)
    turned = image.transpose(Image.Transpose.ROTATE_270)  # (x, y) -> (20 - y, x)
    high = rectangle(20 - 8, 2, 20 - 3, 12).astype(float)
    np.testing.assert_array_equal(part_of(turned, high, 5, 10, is_lying=True), plain)
    upside_down = Crop(height=5, width=10, factor=1.0).open(NOWHERE)
    given = {"image": np.array([FILE], object), "box": rectangle(2, 3, 12, 8)[None]}
    found = upside_down({**given, "turn": np.array([[0.05, 0.95]], np.float32)})["pixels"][0]
    np.testing.assert_array_equal(found.transpose(1, 2, 0), plain[::-1, ::-1])
    found = upside_down({**given, "turn": np.array([[0.15, 0.85]], np.float32)})["pixels"][0]
    np.testing.assert_array_equal(found.transpose(1, 2, 0), plain)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([[0, 0, 1]], "a box is"),
        ([[0, 0, np.nan, 1]], "a box is"),
        ([[0, 0, 1e9, 1e9]], "larger than an image may be"),
        ([[3, 3, 3, 3]], "no area"),
    ],
)
def test_boxes_that_are_none_are_refused(box, said):
    with pytest.raises(InvalidInput, match=said):
        Crop().open(NOWHERE)({"image": np.array([FILE], object), "box": np.array(box, np.float32)})


@given(
    st.sampled_from(["crop", "stretch", "letterbox"]),
    st.integers(10, 400),
    st.integers(10, 400),
    st.lists(st.floats(0.1, 0.9), min_size=2, max_size=2),
)
def test_boxes_find_the_place_from_which_a_pixel_came(fit, height, width, place):
    """A point of the image goes to the network's input by the sizes of the step image, and back."""
    plan = Pixels(height=64, width=96, fit=fit)._processor(NOWHERE).sizes.plan(height, width)
    rows, columns = plan.crop or (plan.height, plan.width)
    x, y = place[0] * columns, place[1] * rows
    wanted = [
        (x + (plan.width - columns) // 2) * width / plan.width,
        (y + (plan.height - rows) // 2) * height / plan.height,
    ]
    run = Boxes(height=64, width=96, fit=fit, form="rows").open(NOWHERE)
    box = np.array([[[y / 64, x / 96, y / 64, x / 96]]], np.float64)
    found = run({"boxes": box, "size": np.array([[height, width]])})["boxes"][0, 0]
    np.testing.assert_allclose(found, [*wanted, *wanted], rtol=1e-9, atol=1e-9)


POINTS = st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=30)


@settings(max_examples=80)
@given(POINTS)
def test_no_rectangle_of_any_angle_is_smaller(points):
    """The rectangle holds all points, and none of 360 angles has a smaller one."""
    many = np.array(points, float)
    corners = smallest_rectangle(many)
    right, down = corners[1] - corners[0], corners[3] - corners[0]
    area = np.hypot(*right) * np.hypot(*down)
    angles = np.radians(np.arange(0, 90, 0.25))
    turned = many @ np.stack([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]).reshape(
        2, 2, -1
    ).transpose(2, 0, 1)
    extents = np.ptp(turned, axis=1)
    assert area <= extents.prod(axis=1).min() + 1e-6
    assert abs(right @ down) < 1e-6
    for edge, length in ((right, np.hypot(*right)), (down, np.hypot(*down))):
        if length > 1e-9:
            along = (many - corners[0]) @ edge / length
            assert along.min() > -1e-6 and along.max() < length + 1e-6


def test_lines_beside_one_another_are_read_from_the_left():
    areas = np.zeros((60, 120), np.float32)
    for top, left in ((10, 70), (12, 10), (40, 10)):
        areas[top : top + 10, left : left + 40] = 1
    found = [box[0].round().tolist() for box, _ in text_areas(areas, 0.3, 0.5, 0.0, 10)]
    assert [x for x, _ in found] == [10, 70, 10]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (SsdDecode(edge=8, strides=(8,), anchors=(1, 2)), "for each layer"),
        (SsdDecode(edge=8, strides=(0,), anchors=(1,)), "for each layer"),
        (TextBoxes(most=0), "`most` must be"),
        (Crop(height=0), "edges must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(step, said):
    with pytest.raises(LoadFailed, match=said):
        step.described(NOWHERE)
        step.open(NOWHERE)


def test_other_numbers_of_anchors_are_refused():
    run = SsdDecode(edge=8, strides=(8,), anchors=(2,)).open(NOWHERE)
    with pytest.raises(InvalidInput, match="there are 2 anchors"):
        run({"raw": RAW, "logits": LOGITS})


def test_channels_may_be_last():
    given = {"image": np.array([png(8, 12)], object)}
    first = Pixels(height=4, width=6).open(NOWHERE)(given)["pixels"]
    last = Pixels(height=4, width=6, layout="nhwc").open(NOWHERE)(given)["pixels"]
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))
