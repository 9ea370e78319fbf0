"""Compiled descriptor sets are those of the ``.proto`` files."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "protos.py"


def test_what_is_compiled_is_what_is_written() -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    script = runpy.run_path(str(SCRIPT))
    assert script["FOLDERS"]
    for folder in script["FOLDERS"]:
        assert (folder / "messages.binpb").read_bytes() == script["compiled"](folder), "run scripts/protos.py"
