"""Hugging Face directories of tiny networks for images, with the answers that transformers gave for them."""

import json
import shutil
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "features" / "pipelines" / "recorded" / "images"
FILES = IMAGES / "files"


def image_directory(folder, name, **changed):
    """Write a directory as optimum-cli does; ``changed`` updates its image processor."""
    path = Path(folder) / name
    path.mkdir(parents=True)
    for file, content in json.loads((IMAGES / "directories.json").read_text())[name].items():
        more = changed if file == "preprocessor_config.json" else {}
        (path / file).write_text(json.dumps({**content, **more}))
    shutil.copy(IMAGES / "networks" / f"{name}.onnx", path / "model.onnx")
    return path


def lines(name):
    """Return a file of recorded JSON lines."""
    return [json.loads(line) for line in (IMAGES / name).read_text().splitlines()]
