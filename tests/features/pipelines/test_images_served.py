"""Directories for images on a real server: every protocol, and hostile files."""

import base64
import io
import json
import struct
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from huggingface_directories import directory
from image_directories import FILES, image_directory, lines

from salver.testing.process import ServerProcess

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tokenizers")
JPEG = (FILES / "rgb-64x48.jpg").read_bytes()
PNG = (FILES / "rgb-64x48.png").read_bytes()
CASES = {case["id"]: case for case in lines("cases.jsonl")}
WANTED = CASES["image-vit/rgb-64x48.jpg"]["output"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("served")
    for name in ("image-vit", "image-convnext", "detect-detr"):
        image_directory(folder, name)
    fast = image_directory(folder / "fast", "image-vit").rename(folder / "small")
    (folder / "fast").rmdir()
    (fast / "salver.toml").write_text('[options]\ndecode = "fast"\nmax_pixels = "100000"\n')
    directory(folder, "textclass-single")
    with ServerProcess([folder], folder.with_suffix(".log")) as running:
        yield running.wait_ready()


def post(server: ServerProcess, model: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/v1/models/{model}", data, {"content-type": kind})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def is_answer(got: Any, want: Any = WANTED) -> bool:
    labels = [row["label"] for row in got] == [row["label"] for row in want]
    return labels and np.allclose([row["score"] for row in got], [row["score"] for row in want], atol=1e-5)


def test_bytes_with_their_content_type(server: ServerProcess) -> None:
    for kind in ("image/jpeg", "application/octet-stream", "image/png", "application/x-www-form-urlencoded"):
        status, got = post(server, "image-vit", JPEG, kind)
        assert status == 200 and is_answer(got), kind
    for name in ("rgb-64x48.webp", "rgb-64x48.gif", "rgb-64x48.png"):
        status, got = post(server, "image-vit", (FILES / name).read_bytes(), "image/x-image")
        assert status == 200 and is_answer(got, CASES[f"image-vit/{name}"]["output"]), name


def test_base64_in_json(server: ServerProcess) -> None:
    text = in_base64(JPEG)
    lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    for sent in (text, lines, f"data:image/jpeg;base64,{text}"):
        status, got = post(server, "image-vit", {"inputs": sent})
        assert status == 200 and is_answer(got)
    status, got = post(server, "image-vit", {"inputs": [text, in_base64(PNG)], "parameters": {"top_k": 2}})
    assert status == 200 and [len(row) for row in got] == [2, 2]
    assert is_answer(got[0], WANTED[:2])


def test_the_same_over_the_open_inference_protocol(server: ServerProcess) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [in_base64(JPEG)]}
    body = json.dumps({"inputs": [tensor], "parameters": {"top_k": 5}}).encode()
    url = f"{server.url}/v2/models/image-vit/infer"
    with urllib.request.urlopen(urllib.request.Request(url, body)) as answer:
        (row,) = json.loads(answer.read())["outputs"][0]["data"]
    assert is_answer(json.loads(row))
    address = server.url.removeprefix("http://")
    files = np.array([JPEG, PNG], object)
    for library in (triton, triton_http):
        given = library.InferInput("image", [2], "BYTES")
        given.set_data_from_numpy(files)
        with library.InferenceServerClient(address) as client:
            rows = client.infer("image-vit", [given]).as_numpy("output")
        assert is_answer(json.loads(rows[0]))
        assert is_answer(json.loads(rows[1]), CASES["image-vit/rgb-64x48.png"]["output"])


def test_in_the_form_of_tensorflow_serving(server: ServerProcess) -> None:
    status, got = post(server, "image-vit:predict", {"instances": [{"b64": in_base64(JPEG)}]})
    assert status == 200 and is_answer(json.loads(got["predictions"][0]))


def test_objects_with_boxes(server: ServerProcess) -> None:
    body = {"inputs": in_base64(JPEG), "parameters": {"threshold": 0.0}}
    status, got = post(server, "detect-detr", body)
    assert status == 200 and is_answer(got, CASES["detect-detr/rgb-64x48.jpg"]["output"])
    assert got[0]["box"] == CASES["detect-detr/rgb-64x48.jpg"]["output"][0]["box"]
    assert post(server, "detect-detr", JPEG, "image/jpeg") == (200, [])


def test_many_at_once_answer_as_one_by_one(server: ServerProcess) -> None:
    names = sorted(path.name for path in FILES.iterdir()) * 2
    found: dict[int, Any] = {}

    def ask(n: int) -> None:
        found[n] = post(server, "image-vit", (FILES / names[n]).read_bytes(), "image/jpeg")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, name in enumerate(names):
        case = CASES[f"image-vit/{name}"]
        status, got = found[n]
        assert status == (400 if "error" in case else 200), name
        assert "error" in case or is_answer(got, case["output"]), name


def test_many_images_in_a_request(server: ServerProcess) -> None:
    files = [JPEG, PNG] * 6
    status, got = post(server, "image-vit", {"inputs": [in_base64(data) for data in files]})
    assert status == 200 and len(got) == 12
    for row, name in zip(got, ("rgb-64x48.jpg", "rgb-64x48.png") * 6, strict=True):
        assert is_answer(row, CASES[f"image-vit/{name}"]["output"])
    files[9] = JPEG[:300]
    status, told = post(server, "image-vit", {"inputs": [in_base64(data) for data in files]})
    assert status == 400 and "broken" in told["error"]


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """Return a PNG that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(image: Any, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


HOSTILE = [
    (png(60_000, 60_000), "at most 50000000 are decoded"),
    (png(10_000, 5_001), "10000 x 5001 pixels; from 1 to 50000000 pixels"),
    (png(0, 5), "image"),
    (png(64, 48, b"\0" * 100), "an image that is broken"),
    (encoded(Image.new("1", (40_000_000, 1))), "which would become"),
    (encoded(Image.new("1", (1, 30_000_000))), "which would become"),
    (JPEG[: len(JPEG) // 2], "an image that is broken"),
    (JPEG[:40], "image"),
    (b"", "empty"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" * 4, "no image"),
    (b"GIF89a", "image"),
    (b"\xff\xd8\xff" * 50, "no image"),
    (b"II*\0" + b"\xff" * 200, "image"),
    (b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\0" * 80, "image"),
    (b"BM" + b"\xff" * 100, "image"),
    (b"http://127.0.0.1/cat.jpg", "a URL"),
    (b"x" * 63 + b"!", "no image"),
    (b"x" * 70 + b"!", "neither an image nor valid base64"),
]


@pytest.mark.parametrize(("data", "text"), HOSTILE, ids=[text for _, text in HOSTILE])
def test_hostile_files_are_refused_alone(server: ServerProcess, data: bytes, text: str) -> None:
    model = "image-convnext" if "become" in text else "image-vit"
    status, told = post(server, model, data, "image/png")
    assert status == 400 and text.removeprefix("image") in told["error"], told
    given = triton.InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([data], object))
    with (
        triton.InferenceServerClient(server.url.removeprefix("http://")) as client,
        pytest.raises(Exception, match="INVALID_ARGUMENT"),
    ):
        client.infer(model, [given])
    assert post(server, "image-vit", JPEG, "image/jpeg")[0] == 200


@pytest.mark.parametrize(
    ("model", "body", "kind", "text"),
    [
        ("image-vit", b"hello", "text/plain", "the model takes images, not text/plain"),
        ("image-vit", b"x", "audio/wav", "the model takes images, not audio/wav"),
        ("image-vit", {"inputs": 5}, "application/json", "inputs must be a text, not a number"),
        ("image-vit", {"inputs": []}, "application/json", "inputs is an empty list"),
        ("image-vit", {"inputs": "%%%"}, "application/json", "neither an image nor valid base64"),
        ("image-vit", {"inputs": "", "parameters": {"top_k": 0}}, "application/json", "must be from 1"),
        ("image-vit", {"inputs": ["", ""]}, "application/json", "an empty image"),
        ("image-vit", {"inputs": "https://x/y.png"}, "application/json", "a URL"),
        ("image-vit", {"inputs": "/etc/passwd"}, "application/json", "neither an image nor valid base64"),
        ("textclass-single", JPEG, "image/jpeg", "the model takes texts, not image/jpeg"),
        ("small", png(400, 300), "image/png", "from 1 to 100000 pixels"),
        ("detect-detr", {"inputs": "", "parameters": {"threshold": "x"}}, "application/json", "a number"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    server: ServerProcess, model: str, body: Any, kind: str, text: str
) -> None:
    status, told = post(server, model, body, kind)
    assert status == 400 and text in told["error"], told


def test_the_page_of_the_api_knows_the_form(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        paths = json.loads(answer.read())["paths"]
    content = paths["/v1/models/image-vit"]["post"]["requestBody"]["content"]
    assert content["image/jpeg"] == {"schema": {"type": "string", "format": "binary"}}
    for model in ("image-vit", "detect-detr"):
        assert post(server, model, content["application/json"]["example"])[0] == 200
