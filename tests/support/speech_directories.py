"""Hugging Face directories of tiny networks for speech and sequences, transformers' answers, and sounds."""

import base64
import io
import json
import shutil
import wave
from pathlib import Path

import numpy as np

SPEECH = Path(__file__).parents[1] / "features" / "pipelines" / "recorded" / "speech"


def speech_directory(folder, name, **changed):
    """Write a directory as optimum-cli does; ``changed`` updates its JSON files."""
    known = json.loads((SPEECH / "directories.json").read_text())
    said = known[name]
    path = Path(folder) / name
    path.mkdir(parents=True)
    files = dict(said["files"])
    if "tokenizer" in said:
        files["tokenizer.json"] = known[said["tokenizer"]]["files"]["tokenizer.json"]
    for file, content in files.items():
        more = changed.get(file.removesuffix(".json"), {})
        (path / file).write_text(json.dumps({**content, **more}))
    for file, network in said["networks"].items():
        shutil.copy(SPEECH / "networks" / network, path / file)
    return path


def speech_cases():
    """Return the recorded cases."""
    return [json.loads(line) for line in (SPEECH / "cases.jsonl").read_text().splitlines()]


def samples(seconds, rate=16_000, channels=1, seed=0):
    """Return the sound of a recorded case, INT16 [samples, channels]; without a seed, silence."""
    count = int(seconds * rate)
    if seed is None:
        return np.zeros((count, channels), "<i2")
    t = np.arange(count) / rate
    noise = np.random.RandomState(seed).normal(size=count)
    y = 0.4 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.05 * noise
    y = np.stack([y, 0.5 * np.roll(y, 100)], 1) if channels == 2 else y[:, None]
    return np.clip(y * 32767, -32768, 32767).astype("<i2")


def wav(pcm, rate=16_000):
    """Return the bytes of a file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(pcm.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm.tobytes())
    return file.getvalue()


def sound(seconds, rate=16_000, channels=1, seed=0):
    """Return the file of a recorded case."""
    return wav(samples(seconds, rate, channels, seed), rate)


def in_base64(data):
    return base64.b64encode(data).decode()
