"""Checks of a model's files by the checksum agent before a load (TR-S12)."""

import hashlib
from pathlib import Path

import pytest

from salver.dialects.triton.agents import vet
from salver.dialects.triton.model_config import model_config_class
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

CONTENT = b"weights"
MD5 = hashlib.md5(CONTENT).hexdigest()


def manifest(home: Path, **parameters: str) -> Manifest:
    """A model whose owner wrote down these digests, by file; ``__`` stands for a colon."""
    (home / "1").mkdir(exist_ok=True)
    (home / "1" / "model.bin").write_bytes(CONTENT)
    message = model_config_class()()
    agent = message.model_repository_agents.agents.add(name="checksum")
    for key, value in parameters.items():
        agent.parameters[key.replace("__", ":")] = value
    return Manifest(
        ModelId("m", "1"), home / "1", "x", "x", foreign_config=message.SerializeToString(), home=home
    )


@pytest.mark.clause("TR-S12")
def test_what_is_as_its_owner_wrote_it_down_is_loaded(tmp_path: Path) -> None:
    vet(Manifest(ModelId("m", "1"), tmp_path, "x", "x"))
    sha = hashlib.sha256(CONTENT).hexdigest()
    vet(manifest(tmp_path, **{"MD5__1/model.bin": MD5.upper(), "SHA256__1/model.bin": sha}))


@pytest.mark.clause("TR-S12")
@pytest.mark.parametrize(
    ("key", "digest", "reason"),
    [
        (
            "MD5__1/model.bin",
            "0" * 32,
            f"Mismatched MD5 hash for file .*/1/model.bin, expect: 0+, got: {MD5}",
        ),
        ("MD5__1/other.bin", MD5, "cannot read .*other.bin: No such file"),
        ("MD5__1", MD5, "cannot read .*/1: Is a directory"),
        ("MD5__../../etc/passwd", MD5, "leads out of the store"),
        ("MD5__/etc/passwd", MD5, "leads out of the store"),
        ("CRC__1/model.bin", MD5, "MD5:FILE"),
        ("1/model.bin", MD5, "MD5:FILE"),
    ],
)
def test_what_is_not_is_a_load_that_fails(tmp_path: Path, key: str, digest: str, reason: str) -> None:
    with pytest.raises(LoadFailed, match=reason):
        vet(manifest(tmp_path, **{key: digest}))
