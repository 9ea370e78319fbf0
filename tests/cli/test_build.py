"""``salver build``: the folder that it writes, without pip; ``make image`` builds and runs one with it."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from zoo import write_constant

from salver.cli import image_context, main
from salver.words.errors import FailedPrecondition

WHEEL = b"a wheel"


class Pip:
    """Writes what pip would: Salver's wheel, and a report of two packages, one of which is a local file.

    Attributes:
        further: Versions of further packages, for each report.
    """

    def __init__(self, local: Path) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.pins = ""
        self.further: list[dict[str, str]] = []
        self._local = local
        local.write_bytes(WHEEL)

    def __call__(self, *words: str) -> None:
        self.calls.append(words)
        if words[0] == "wheel":
            Path(words[words.index("--wheel-dir") + 1], "salver-0.1.0-py3-none-any.whl").write_bytes(WHEEL)
        elif words[0] == "install":
            self.pins = Path(words[words.index("--constraint") + 1]).read_text()
            (own,) = (word.partition(" @ ")[2] for word in words if word.startswith("salver["))
            entries = [
                self._entry("salver", own, ""),
                self._entry(
                    "numpy", "https://index.example/numpy.whl", "ab" * 32, license_expression="BSD-3-Clause"
                ),
                self._entry("Torch_Local", self._local.as_uri(), "", license="L" * 1000),
            ]
            if self.further:
                entries += [
                    self._entry(name, f"https://index.example/{name}.whl", "cd" * 32, version=each)
                    for name, each in self.further.pop(0).items()
                ]
            Path(words[words.index("--report") + 1]).write_text(json.dumps({"install": entries}))

    @staticmethod
    def _entry(name: str, url: str, digest: str, **metadata: str) -> dict[str, Any]:
        found = {"hashes": {"sha256": digest}} if digest else {}
        return {
            "metadata": {"name": name, "version": "1.0"} | metadata,
            "download_info": {"url": url, "archive_info": found},
        }


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    played = Pip(tmp_path / "torch_local-1.0.whl")
    monkeypatch.setattr(image_context, "_pip", played)
    return played


def test_models_and_their_environment_are_locked(
    tmp_path: Path, pip: Pip, capsys: pytest.CaptureFixture[str]
) -> None:
    write_constant(tmp_path / "models", 1)
    (tmp_path / "models" / "constant" / "__pycache__").mkdir()
    image = tmp_path / "image"
    words = ["build", str(tmp_path / "models"), "--output", str(image), "--extras", "text, images"]
    assert main(words) == 0
    assert "3 packages locked, extras: images, onnx, text" in capsys.readouterr().out
    own = hashlib.sha256(WHEEL).hexdigest()
    assert (image / "requirements.txt").read_text().splitlines() == [
        "--find-links wheels",
        f"numpy==1.0 --hash=sha256:{'ab' * 32}",
        f"salver==1.0 --hash=sha256:{own}",
        f"Torch_Local==1.0 --hash=sha256:{own}",
    ]
    assert {path.name for path in (image / "wheels").iterdir()} == {
        "salver-0.1.0-py3-none-any.whl",
        "torch_local-1.0.whl",
    }
    assert f"numpy=={version('numpy')}" in pip.pins and "salver==" not in pip.pins
    assert pip.calls[1][-1].startswith("salver[images,onnx,text] @ file:///")
    assert (image / "models" / "models" / "constant" / "1" / "model.onnx").exists()
    assert not list(image.rglob("__pycache__"))
    text = (image / "Containerfile").read_text()
    assert 'CMD ["serve", "/models/models"]' in text
    bill = json.loads((image / "sbom.cdx.json").read_text())
    assert [each["purl"] for each in bill["components"]] == [
        "pkg:pypi/numpy@1.0",
        "pkg:pypi/salver@1.0",
        "pkg:pypi/torch-local@1.0",
    ]
    assert [each.get("licenses") for each in bill["components"]] == [
        [{"license": {"name": "BSD-3-Clause"}}],
        None,
        None,
    ]


def test_models_with_an_environment_bring_what_makes_it(tmp_path: Path, pip: Pip) -> None:
    write_constant(tmp_path / "models", 1)
    folder = tmp_path / "models" / "constant"
    (folder / "requirements.txt").write_text("numpy==2.3.5\n")
    (folder / "salver.toml").write_text('[environment]\npath = "requirements.txt"\n')
    own = str(tmp_path / "own.txt")
    words = ["--output", str(tmp_path / "image"), "--requirements", own]
    assert main(["build", str(tmp_path / "models"), *words]) == 0
    assert pip.calls[1][-3:] == ("uv", "--requirement", own)


def test_offline_brings_all_packages(tmp_path: Path, pip: Pip) -> None:
    image = tmp_path / "image"
    assert main(["build", "--output", str(image), "--offline"]) == 0
    assert (image / "requirements.txt").read_text().startswith("--no-index\n--find-links wheels\n")
    assert pip.calls[2][0] == "download"
    assert 'CMD ["serve", "/models"]' in (image / "Containerfile").read_text()
    assert list((image / "models").iterdir()) == []


CUDA = {"torch": "2.13.0", "nvidia-cudnn-cu13": "9.2"}


def lock_of(image: Path) -> str:
    return (image / "requirements.txt").read_text()


def test_gpus_get_builds_with_cuda_and_its_libraries(tmp_path: Path, pip: Pip) -> None:
    pip.further = [
        CUDA | {"onnxruntime": "1.32.0"},
        CUDA | {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"},
    ]
    image = tmp_path / "image"
    assert main(["build", "--output", str(image), "--extras", "onnx,torch", "--gpu"]) == 0
    assert pip.calls[2][-1] == "onnxruntime-gpu[cuda,cudnn]"
    assert "onnxruntime-gpu==1.31.1 " in lock_of(image) and "onnxruntime==" not in lock_of(image)
    assert "torch==2.13.0 " in lock_of(image) and "--extra-index-url" not in lock_of(image)
    text = (image / "Containerfile").read_text()
    _, last_stage = text.split("\nFROM ${BASE}\n")
    lines = last_stage.splitlines()
    assert lines.index("ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility") == (
        lines.index("COPY models /models") - 1
    )
    assert "ldconfig" in last_stage.partition("USER 65532:0")[0]


def test_without_gpus_nothing_brings_cuda(tmp_path: Path, pip: Pip) -> None:
    """PyPI's PyTorch for Linux does, so that its own index is asked, but only then."""
    pip.further = [CUDA, {"torch": "2.13.0+cpu"}]
    image = tmp_path / "image"
    assert main(["build", "--output", str(image), "--extras", "torch"]) == 0
    assert image_context._CPU_INDEX in pip.calls[2] and image_context._CPU_INDEX not in pip.calls[1]
    assert lock_of(image).startswith(f"--find-links wheels\n--extra-index-url {image_context._CPU_INDEX}\n")
    assert "torch==2.13.0+cpu " in lock_of(image)
    assert "NVIDIA" not in (image / "Containerfile").read_text()


@pytest.mark.parametrize(
    ("words", "further", "said"),
    [
        (["--gpu"], [], "none of the packages uses CUDA"),
        (["--gpu"], [CUDA | {"torch": "2.13.0+cpu"}], "pip finds torch without CUDA"),
        ([], [CUDA, CUDA], "no builds without CUDA at https://download.pytorch.org"),
    ],
)
def test_builds_of_the_other_kind_are_refused(
    tmp_path: Path,
    pip: Pip,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    further: list[dict[str, str]],
    said: str,
) -> None:
    pip.further = further
    assert main(["build", "--output", str(tmp_path / "image"), *words]) == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{0}/none", "--output", "{0}/image"], "none does not exist"),
        (["{0}/empty", "--output", "{0}/image"], "has no model"),
        (["--output", "{0}"], "exists and is not empty"),
        (["--output", "{0}/image", "--extras", "pytorch"], "salver has no extra pytorch"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, pip: Pip, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["build", *(word.format(tmp_path) for word in words)]) == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert pip.calls == []
    assert not (tmp_path / "image").exists()


def test_what_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(image_context, "_source", lambda: "salver==0.0.0")
    assert main(["build", "--output", str(tmp_path / "image")]) == 1
    assert not (tmp_path / "image").exists()


def test_what_pip_says_is_told() -> None:
    with pytest.raises(FailedPrecondition, match="no-such-command") as caught:
        image_context._pip("no-such-command")
    assert "PIP_INDEX_URL" in str(caught.value.fix)
