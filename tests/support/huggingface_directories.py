"""Hugging Face directories of tiny networks, with the answers that transformers gave for them."""

import base64
import functools
import json
import shutil
from pathlib import Path

RECORDED = Path(__file__).parents[1] / "features" / "pipelines" / "recorded"


@functools.cache
def _directories():
    return json.loads((RECORDED / "directories.json").read_text())


def directory(folder, name, **changed):
    """Write a directory as optimum-cli does; ``changed`` replaces JSON files, None = leave out."""
    said = _directories()[name]
    path = Path(folder) / name
    files = {**said["files"], **{key.replace("__", "/") + ".json": value for key, value in changed.items()}}
    for file, content in files.items():
        if content is None:
            continue
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict) and content.keys() == {"base64"}:
            (path / file).write_bytes(base64.b64decode(content["base64"]))
        else:
            (path / file).write_text(json.dumps(content))
    shutil.copy(RECORDED / "networks" / f"{said['network']}.onnx", path / "model.onnx")
    shutil.copy(RECORDED / "tokenizers" / f"{said['tokenizer']}.json", path / "tokenizer.json")
    return path


def cases(*tasks):
    """Return the recorded cases of some tasks."""
    lines = (RECORDED / "cases.jsonl").read_text().splitlines()
    return [case for case in map(json.loads, lines) if case["task"] in tasks]
