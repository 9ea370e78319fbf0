"""Which real inputs does the demo ask about, and what are the right answers?

Pictures, files and labelled tables that lie in installed packages. It knows no server; the arrays
are exactly what the models expect.
"""

import importlib.metadata
import json
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Split = tuple[tuple[Array, Array], tuple[Array, Array]]

#: File names of the pictures, by the names that the questions use.
PICTURES = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "china": "china.jpg",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
}

#: ImageNet's channel statistics, in RGB, which torchvision's weights were trained with.
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")


def packaged(package: str, name: str) -> Path:
    """The file ``name`` of an installed package, found without importing the package."""
    for file in importlib.metadata.files(package) or ():
        if str(file).endswith(name):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the package {package} is installed without its file {name}")


def _split(features: Array, labels: Array, share: float) -> Split:
    order = np.random.default_rng(1).permutation(len(labels))
    cut = int(len(labels) * share)
    train, held_out = order[:cut], order[cut:]
    return (features[train], labels[train]), (features[held_out], labels[held_out])


def tumours() -> Split:
    """Breast cancer Wisconsin: 569 x 30 features, label 1 = benign; a third is held out."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return _split(features.astype("f4"), labels, 2 / 3)


def wines() -> Split:
    """Wine: 178 x 13 features of three cultivars; half is held out."""
    from sklearn.datasets import load_wine

    features, labels = load_wine(return_X_y=True)
    return _split(features.astype("f4"), labels, 1 / 2)


def handwriting() -> Split:
    """Digits: 1,797 pictures of 8 x 8 as rows of 64; half is held out."""
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    return _split(features.astype("f4"), labels, 1 / 2)


def _picture(name: str) -> Any:
    """A picture of scikit-image or scikit-learn, as a Pillow image in RGB."""
    from PIL import Image

    package = "scikit-learn" if name == "china.jpg" else "scikit-image"
    return Image.open(packaged(package, f"/{name}")).convert("RGB")


def scene(name: str) -> Array:
    """A picture as MobileNetV2 wants it: [1,3,224,224], short side 256, centre crop, normalised."""
    image = _picture(name)
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], 2)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), "f4") / 255
    return np.ascontiguousarray(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)[None])


def portrait(name: str) -> Array:
    """A picture as the face detector wants it: [1,128,128,3] in -1..1, padded to a square."""
    from PIL import ImageOps

    square = ImageOps.pad(_picture(name), (128, 128))
    return np.asarray(square, "f4")[None] / 127.5 - 1


NOTES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]


def tone(hertz: float) -> Array:
    """Two seconds of a sine as Basic Pitch wants it: [1,43844,1] at 22,050 Hz."""
    seconds = np.arange(43844) / 22050
    return (0.5 * np.sin(2 * np.pi * hertz * seconds)).astype("f4")[None, :, None]


def note_name(key: int) -> str:
    """A key of the piano, counted from 0, as musicians call it; key 48 is A4."""
    return f"{NOTES[(key + 9) % 12]}{(key + 9) // 12}"


def categories() -> list[str]:
    """ImageNet's 1,000 class names."""
    from torchvision.models import MobileNet_V2_Weights

    return list(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


def file_kinds() -> list[str]:
    """Magika's 214 labels, in the order of its output."""
    described = json.loads(packaged("magika", "standard_v3_3/config.min.json").read_text())
    return list(described["target_labels_space"])


def ends_of_file(path: Path) -> Array:
    """A file as Magika wants it: [1,2048], its first and last 1,024 bytes, stripped, padded by 256."""
    with path.open("rb") as file:
        size = path.stat().st_size
        head = file.read(4096).lstrip()[:1024]
        file.seek(max(size - 4096, 0))
        tail = file.read(4096).rstrip()[-1024:]
    row = np.full(2048, 256, "i4")
    row[: len(head)] = list(head)
    row[2048 - len(tail) :] = list(tail)
    return row[None]


def known_files() -> list[tuple[Path, str]]:
    """Real files of this installation and what they are (a label that Magika must give)."""
    site = Path(sysconfig.get_paths()["purelib"])
    found = []
    for pattern, label in KNOWN_FILES:
        path = next(iter(sorted(site.glob(pattern))), None)
        if path is not None:
            found.append((path, label))
    return found


#: Where to look below site-packages, and the label; a package that is not installed is passed over.
KNOWN_FILES = (
    ("numpy/__config__.py", "python"),
    ("numpy/__config__.pyi", "python"),
    ("numpy/_core/_multiarray_umath*.so", "elf"),
    ("numpy/_core/include/numpy/__multiarray_api.h", "c"),
    ("numpy/_core/tests/data/umath-validation-set-arccos.csv", "csv"),
    ("numpy/f2py/tests/src/abstract_interface/foo.f90", "fortran"),
    ("numpy/lib/tests/data/py2-objarr.npz", "npz"),
    ("numpy/ma/README.rst", "rst"),
    ("scipy/io/tests/data/test-44100Hz-2ch-32bit-float-le.wav", "wav"),
    ("skimage/data/coffee.png", "png"),
    ("skimage/data/lbpcascade_frontalface_opencv.xml", "xml"),
    ("skimage/data/lfw_subset.npy", "npy"),
    ("skimage/data/multipage.tif", "tiff"),
    ("skimage/data/no_time_for_that_tiny.gif", "gif"),
    ("sklearn/datasets/data/digits.csv.gz", "gzip"),
    ("sklearn/datasets/images/china.jpg", "jpeg"),
    ("sklearn/utils/_repr_html/params.css", "css"),
    ("onnxruntime/datasets/logreg_iris.onnx", "onnx"),
    ("onnxruntime/Privacy.md", "markdown"),
    ("magika/config/content_types_kb.min.json", "json"),
    ("joblib/test/data/*py33*.pkl.xz", "xz"),
)
