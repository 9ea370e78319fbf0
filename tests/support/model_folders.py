"""Files of a model repository, and a recogniser that needs no framework."""

from pathlib import Path

from salver.backends.protocol import ArtifactKind


def recognise(path: Path) -> ArtifactKind | None:
    """By content, as a backend would: the first word of a file, or a marker in a folder."""
    if path.is_dir():
        marker = path / "saved_model.pb"
        return ArtifactKind("tensorflow", "savedmodel") if marker.exists() else None
    try:
        word = path.open("rb").read(8).split(b" ")[0].decode()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    kinds = {"ONNX": "onnx", "TORCH": "torch", "PY": "python", "TFL": "litert"}
    return ArtifactKind(kinds[word], word.lower()) if word in kinds else None


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
