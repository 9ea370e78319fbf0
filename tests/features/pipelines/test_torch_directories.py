"""Directories with safetensors and no ONNX export: answers are those of transformers' pipelines."""

import functools
import json
import shutil

import numpy as np
import pytest
from huggingface_directories import directory
from image_directories import FILES, image_directory
from pipeline_answers import alike, asked
from soaking import ONLY
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
    said = path / "generation_config.json"
    kept = said.read_text() if said.exists() else ""
    network.save_pretrained(path)
    if kept:
        said.write_text(kept)
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


QUESTION = {"question": "Where does Wolfgang live?", "context": "My name is Wolfgang and I live in Berlin."}
RANKING = {"query": "Where is Berlin?", "texts": ["Berlin is in Germany.", TEXT, "a"]}


@pytest.mark.parametrize(
    ("name", "task", "kind", "outputs", "inputs"),
    [
        ("st-mean-norm", "", "BertModel", ["last_hidden_state"], [TEXT, "a", "My name is Wolfgang."]),
        ("qa", "question-answering", "BertForQuestionAnswering", ["start_logits", "end_logits"], QUESTION),
        ("rerank", "text-ranking", "BertForSequenceClassification", ["logits"], RANKING),
    ],
)
def test_answers_are_those_of_the_onnx_export(name, task, kind, outputs, inputs, tmp_path):
    """For tasks of which transformers 5 has no pipeline."""
    path = with_weights(directory(tmp_path, name), kind)
    exported = directory(tmp_path / "onnx", name)
    shutil.copy(path / "config.json", exported)
    network = getattr(transformers, kind).from_pretrained(path).eval()
    network.set_attn_implementation("eager")
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, *given):
            found = network(**dict(zip(names, given, strict=True)))
            return tuple(found[output] for output in outputs)

    given = tuple(torch.ones(2, 5, dtype=torch.int64) for _ in names)
    axes = {name: {0: "n", 1: "t"} for name in (*names, *outputs)}
    if name == "rerank":
        axes["logits"] = {0: "n"}
    torch.onnx.export(
        Network().eval(), given, exported / "model.onnx", input_names=names,
        output_names=outputs, dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    found, wanted = (
        asked(loaded(path, task), {"inputs": inputs}),
        asked(loaded(exported, task), {"inputs": inputs}),
    )
    alike(found, wanted)


def test_labels_that_the_request_brings(tmp_path):
    path = with_weights(directory(tmp_path, "nli"), "BertForSequenceClassification")
    pipeline = transformers.pipeline("zero-shot-classification", str(path))
    labels = ["food", "travel", "music"]
    body = {"inputs": TEXT, "parameters": {"candidate_labels": labels}}
    alike(asked(loaded(path, "zero-shot-classification"), body), pipeline(TEXT, candidate_labels=labels))


def test_objects(tmp_path):
    small = {"image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 4, **SMALL}
    path = with_weights(image_directory(tmp_path, "detect-yolos"), "YolosForObjectDetection", **small)
    processor = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
    pipeline = transformers.pipeline("object-detection", str(path), image_processor=processor)
    file = FILES / "rgb-64x48.jpg"
    body = {"inputs": in_base64(file.read_bytes()), "parameters": {"threshold": 0.0}}
    found, wanted = asked(loaded(path), body), pipeline(str(file), threshold=0.0)
    assert len(found) == len(wanted) > 0
    alike(found, wanted)


@pytest.mark.parametrize("beams", [pytest.param(1, marks=ONLY), 3])
@pytest.mark.parametrize(
    ("name", "task", "kind"),
    [
        ("bart-ends", "text2text-generation", "BartForConditionalGeneration"),
        ("t5", "text2text-generation", "T5ForConditionalGeneration"),
        ("asr-whisper", "", "WhisperForConditionalGeneration"),
    ],
)
def test_texts_are_made_as_generate_makes_them(name, task, kind, beams, tmp_path):
    path = with_weights(speech_directory(tmp_path, name), kind)
    settings = {"num_beams": beams, "max_new_tokens": 12}
    if name == "asr-whisper":
        wanted = transformers.pipeline("automatic-speech-recognition", str(path))(
            samples(0.5)[:, 0].astype(np.float32) / 32768, generate_kwargs=settings
        )
        assert asked(loaded(path), {"inputs": in_base64(sound(0.5)), "parameters": settings}) == wanted
        return
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    network = getattr(transformers, kind).from_pretrained(path).eval()
    texts = ["Paris is the capital.", "My name is Wolfgang and I live in Berlin."]
    wanted = []
    for text in texts:
        made = network.generate(**tokenizer(text, return_tensors="pt"), **settings)
        wanted.append(tokenizer.decode(made[0], skip_special_tokens=True))
    # Both at once, padded to one length.
    found = asked(loaded(path, task), {"inputs": texts, "parameters": settings})
    assert [next(iter(each.values())) for each in found] == wanted


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
