"""One real server on the models that the kept cases ask."""

import re
from collections.abc import Iterator
from pathlib import Path

import beside_models
import pytest

from salver.testing.process import TritonProcess

KEPT = Path(__file__).with_name("triton.jsonl")


@pytest.fixture(scope="package")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Where each protocol is served."""
    folder = tmp_path_factory.mktemp("beside")
    asked = set(re.findall(r'/v2/models/(\w+)|"model_name":"(\w+)"|"name":"(\w+)"', KEPT.read_text()))
    names = {name for found in asked for name in found if name}
    loaded = [name for name in beside_models.write(folder / "models") if name in names or name == "addsub"]
    flags = [
        *beside_models.FLAGS,
        *(f"--load-model={name}" for name in loaded),
        "--allow-client-shm=true",
        "--trust-pickle=true",  # configurations by request tell Python models what to do
        "--state-dir",
        "",
    ]
    with TritonProcess([folder / "models"], folder / "log", flags) as server:
        server.wait_ready(180)
        yield server.ports
