"""Where are the real weights and inputs that installed packages carry? Found without importing them."""

import json
from importlib.metadata import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from salver.backends.protocol import Backend, LoadOptions, RunnableModel
from salver.testing.backends import manifest_of
from salver.words.artifacts import ModelConfig
from salver.words.tensor import Array

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")


def packaged(package: str, name: str) -> Path:
    """The file of an installed package whose path ends in ``name``."""
    for file in files(package) or ():
        if str(file).endswith(name):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the package {package} is installed without its file {name}")


def load(backend: Backend, path: Path, config: ModelConfig | None = None) -> RunnableModel:
    return backend.load(manifest_of(backend, path, config or ModelConfig()), LoadOptions())


def picture(package: str, name: str) -> Image.Image:
    return Image.open(packaged(package, f"/{name}")).convert("RGB")


def scene(package: str, name: str) -> Array:
    """A picture as ImageNet models want it: [1,3,224,224]."""
    image = picture(package, name)
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), "f4") / 255
    return np.ascontiguousarray(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)[None], "f4")


def portrait(name: str) -> Array:
    """A picture as MediaPipe's face detector wants it: [1,128,128,3] in -1..1."""
    square = ImageOps.pad(picture("scikit-image", name), (128, 128))
    return np.asarray(square, "f4")[None] / 127.5 - 1


def ends_of_file(path: Path) -> Array:
    """A file as Magika wants it: its first and last 1,024 bytes, stripped, padded by 256."""
    content = path.read_bytes()
    head, tail = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    row = np.full(2048, 256, "i4")
    row[: len(head)] = list(head)
    row[2048 - len(tail) :] = list(tail)
    return row[None]


def file_kinds() -> list[str]:
    """Magika's 214 labels, in the order of its output."""
    described = json.loads(packaged("magika", "standard_v3_3/config.min.json").read_text())
    return list(described["target_labels_space"])
