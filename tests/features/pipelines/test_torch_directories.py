"""Directories with safetensors and no ONNX export: answers are those of transformers' pipelines."""

import functools
import json
import shutil

import numpy as np
import pytest
from huggingface_directories import RECORDED, directory
from image_directories import FILES, image_directory
from pipeline_answers import alike, asked
from speech_directories import in_base64, samples, sound, speech_directory

from salver.backends.protocol import LoadOptions
from salver.features.pipelines.backend import HuggingFaceBackend
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TEXT = "This movie is not good, it is terrible!"
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}


@functools.cache
def loaded(path, task=""):
    assert HuggingFaceBackend().recognise(path) == "huggingface"
    config = ModelConfig(options={"task": task} if task else {})
    manifest = Manifest(ModelId(path.name, "1"), path, "huggingface", "huggingface", config)
    return HuggingFaceBackend().load(manifest, LoadOptions())


def with_weights(path, kind, **changed):
    """Replace a directory's network by random weights of a class."""
    for file in path.glob("*.onnx"):
        file.unlink()
    before = json.loads((path / "config.json").read_text()) | changed
    (path / "config.json").write_text(json.dumps(before))
    torch.manual_seed(7)
    config = transformers.AutoConfig.from_pretrained(path)
    network = getattr(transformers, kind)(config).eval()
    network.save_pretrained(path)
    after = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**before, **after}))
    return path


@pytest.mark.parametrize(
    ("name", "task", "kind"),
    [
        ("textclass-single", "text-classification", "BertForSequenceClassification"),
        ("ner-bert", "token-classification", "BertForTokenClassification"),
        ("mask-roberta", "fill-mask", "RobertaForMaskedLM"),
        ("features", "feature-extraction", "BertModel"),
    ],
)
def test_texts(name, task, kind, tmp_path):
    path = with_weights(directory(tmp_path, name), kind)
    pipeline = transformers.pipeline(task, str(path))
    text = "Paris is <mask> good." if task == "fill-mask" else TEXT
    alike(asked(loaded(path, task), {"inputs": text}), json.loads(json.dumps(pipeline(text), default=float)))


def test_images(tmp_path):
    path = with_weights(
        image_directory(tmp_path, "image-vit"),
        "ViTForImageClassification",
        image_size=32,
        patch_size=8,
        **SMALL,
    )
    processor = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
    pipeline = transformers.pipeline("image-classification", str(path), image_processor=processor)
    file = FILES / "rgb-64x48.jpg"
    alike(asked(loaded(path), {"inputs": in_base64(file.read_bytes())}), pipeline(str(file)))


def test_sounds(tmp_path):
    path = with_weights(speech_directory(tmp_path, "asr-ctc"), "Wav2Vec2ForCTC")
    pipeline = transformers.pipeline("automatic-speech-recognition", str(path))
    heard = samples(0.5)[:, 0].astype(np.float32) / 32768
    assert asked(loaded(path), {"inputs": in_base64(sound(0.5))}) == pipeline(heard)


def test_embeddings_are_those_of_the_onnx_export(tmp_path):
    name = "st-mean-norm"
    path = with_weights(directory(tmp_path, name), "BertModel")
    exported = directory(tmp_path / "onnx", name)
    network = transformers.BertModel.from_pretrained(path).eval()
    network.set_attn_implementation("eager")
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, *given):
            return network(**dict(zip(names, given, strict=True)))["last_hidden_state"]

    given = tuple(torch.ones(2, 5, dtype=torch.int64) for _ in names)
    axes = {name: {0: "n", 1: "t"} for name in (*names, "last_hidden_state")}
    torch.onnx.export(
        Network().eval(), given, exported / "model.onnx", input_names=names,
        output_names=["last_hidden_state"], dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    body = {"inputs": [TEXT, "a", "My name is Wolfgang."]}
    found, wanted = asked(loaded(path), body), asked(loaded(exported), body)
    assert np.allclose(found["embeddings"], wanted["embeddings"], atol=1e-5)


@pytest.mark.parametrize("name", ["bart-ends", "asr-whisper"])
def test_networks_that_make_texts_need_an_export(name, tmp_path):
    path = speech_directory(tmp_path, name)
    for file in path.glob("*.onnx"):
        file.unlink()
    shutil.copy(RECORDED / "README.md", path / "model.safetensors")
    with pytest.raises(LoadFailed, match="optimum-cli export onnx"):
        loaded(path, "summarization" if name == "bart-ends" else "")


def test_broken_weights_and_remote_code_are_refused(tmp_path):
    path = directory(tmp_path, "textclass-single")
    (path / "model.onnx").unlink()
    (path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(LoadFailed, match="no weights for bert"):
        loaded(path)
    (path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(LoadFailed, match="could not be loaded by transformers"):
        loaded(path)
    code = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"},
    }
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **code}))
    (path / "own.py").write_text("raise SystemExit('code of a directory ran')")
    with pytest.raises(LoadFailed, match="could not be loaded by transformers"):
        loaded(path, "text-classification")
