"""What a directory's files say, and what is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_directories import directory
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.backends.protocol import Answer, LoadOptions
from salver.features.pipelines.backend import HuggingFaceBackend
from salver.features.pipelines.directory import Config, Module, SentenceConfig, read_directory, task_of
from salver.features.pipelines.model import PipelineModel
from salver.features.pipelines.texts import Piece, TextEncoder
from salver.features.pipelines.weights import read_weights
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor

pytest.importorskip("tokenizers")
NLI = {"0": "contradiction", "1": "neutral", "2": "entailment"}


def load(path: Path, **options: str) -> PipelineModel:
    config = ModelConfig(options=options)
    manifest = Manifest(ModelId("m", "1"), path, "huggingface", "huggingface", config)
    return HuggingFaceBackend().load(manifest, LoadOptions())


def config_of(name: str) -> Any:
    from huggingface_directories import RECORDED

    return json.loads((RECORDED / "directories.json").read_text())[name]["files"]["config.json"]


@pytest.mark.parametrize(
    ("config", "tag", "task"),
    [
        (Config(architectures=["BertForSequenceClassification"]), "", "text-classification"),
        (Config(architectures=["BertForSequenceClassification"], id2label=NLI), "", "text-classification"),
        (
            Config(architectures=["BertForSequenceClassification"], id2label=NLI),
            "zero-shot-classification",
            "zero-shot-classification",
        ),
        (
            Config(architectures=["BertForSequenceClassification"], id2label={"0": "LABEL_0"}),
            "text-ranking",
            "text-ranking",
        ),
        (
            Config(
                architectures=["BertForSequenceClassification"],
                id2label={"0": "LABEL_0"},
                sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"},
            ),
            "",
            "text-ranking",
        ),
        (Config(architectures=["RobertaForTokenClassification"]), "", "token-classification"),
        (Config(architectures=["BertForQuestionAnswering"]), "", "question-answering"),
        (Config(architectures=["BertForMaskedLM"]), "", "fill-mask"),
        (Config(architectures=["BertModel"]), "", "feature-extraction"),
        (Config(architectures=["ViTForImageClassification"]), "", "image-classification"),
        (Config(architectures=["DetrForObjectDetection"]), "", "object-detection"),
        (Config(architectures=["Wav2Vec2ForCTC"]), "", "automatic-speech-recognition"),
        (
            Config(architectures=["WhisperForConditionalGeneration"], model_type="whisper"),
            "",
            "automatic-speech-recognition",
        ),
        (Config(architectures=["BartForConditionalGeneration"]), "summarization", "summarization"),
        (Config(architectures=["T5ForConditionalGeneration"]), "", "text2text-generation"),
        (Config(architectures=["MarianMTModel"]), "translation", "translation"),
        (Config(architectures=["LlamaForCausalLM"]), "", "text-generation"),
        (Config(architectures=["Unheard"]), "", ""),
        (Config(), "", ""),
    ],
)
def test_task_by_the_evidence(config: Config, tag: str, task: str) -> None:
    assert task_of(config, (), SentenceConfig(), tag) == task


def test_sentence_transformers_come_first() -> None:
    config = Config(architectures=["BertModel"])
    modules = (Module("sentence_transformers.models.Transformer"),)
    assert task_of(config, modules, SentenceConfig(), "") == "sentence-embeddings"
    assert task_of(config, (), SentenceConfig(model_type="CrossEncoder"), "") == "text-ranking"
    assert task_of(config, modules, SentenceConfig(model_type="SparseEncoder"), "") == "sparse-embeddings"


def test_the_front_matter_of_the_readme_decides(tmp_path: Path) -> None:
    path = directory(tmp_path, "nli")
    assert read_directory(path).task == "text-classification"
    (path / "README.md").write_text("---\npipeline_tag: zero-shot-classification\n---\n# A model")
    assert read_directory(path).task == "zero-shot-classification"
    (path / "README.md").write_text("# A model\npipeline_tag: zero-shot-classification\n")
    assert read_directory(path).task == "text-classification"


def test_length_is_the_smallest_that_is_known(tmp_path: Path) -> None:
    assert read_directory(directory(tmp_path, "textclass-single")).max_length == 48
    assert read_directory(directory(tmp_path, "st-cls")).max_length == 16
    no_limit = {"tokenizer_class": "BertTokenizer", "model_max_length": 1e30}
    roberta = directory(tmp_path, "ner-roberta", tokenizer_config=no_limit)
    assert read_directory(roberta).max_length == 64, "positions begin after that of the padding"


def test_networks_in_onnx_and_by_name(tmp_path: Path) -> None:
    path = directory(tmp_path, "textclass-single")
    (path / "onnx").mkdir()
    shutil.move(path / "model.onnx", path / "onnx" / "model.onnx")
    assert HuggingFaceBackend().recognise(path) == "huggingface"
    load(path).close()
    shutil.copy(path / "onnx" / "model.onnx", path / "onnx" / "model_quantized.onnx")
    load(path, file="onnx/model_quantized.onnx").close()
    (path / "onnx" / "model.onnx").rename(path / "onnx" / "model_O2.onnx")
    with pytest.raises(LoadFailed, match=r"no model.onnx, but 2 other") as refused:
        load(path)
    assert "onnx/model_O2.onnx" in (refused.value.fix or "")


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    backend = HuggingFaceBackend()
    path = directory(tmp_path, "textclass-single")
    assert backend.recognise(path / "model.onnx") is None
    assert backend.recognise(tmp_path) is None
    (path / "model.onnx").unlink()
    assert backend.recognise(path) is None, "weights alone get the advice to export them"
    shutil.copy(path / "tokenizer.json", path / "model.onnx")
    for broken in ("", "[]", '{"architectures": 5}', "{", "\xff", '{"model_type": "x"}'):
        (path / "config.json").write_text(broken, "latin-1")
        assert backend.recognise(path) is None, broken


@pytest.mark.parametrize(
    ("architecture", "text"),
    [
        ("GPT2LMHeadModel", "a Hugging Face directory for text-generation"),
        ("UnheardOf", "whose task cannot be told from its files"),
    ],
)
def test_tasks_that_are_not_served_are_refused_by_name(tmp_path: Path, architecture: str, text: str) -> None:
    config = {**config_of("textclass-single"), "architectures": [architecture]}
    path = directory(tmp_path, "textclass-single", config=config)
    with pytest.raises(LoadFailed, match=text) as refused:
        load(path)
    assert 'backend = "onnx"' in (refused.value.fix or "")


def test_what_is_missing_or_strange_is_named(tmp_path: Path) -> None:
    path = directory(tmp_path / "a", "textclass-single")
    (path / "tokenizer.json").unlink()
    with pytest.raises(LoadFailed, match=r"no readable tokenizer.json") as refused:
        load(path)
    assert "save_pretrained" in (refused.value.fix or "")
    (path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(LoadFailed, match=r"tokenizer.json could not be loaded"):
        load(path)
    for outside in ("../../secret.onnx", "/etc/passwd"):
        with pytest.raises(LoadFailed, match="outside"):
            load(directory(tmp_path / "b", "textclass-single"), file=outside)
    dense = {"in_features": 32, "out_features": 16, "activation_function": "os.system"}
    with pytest.raises(LoadFailed, match=r"names the activation 'os\.system'"):
        load(directory(tmp_path / "c", "st-dense", **{"2_Dense__config": dense}))
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "../../..", "type": "x.Pooling"}]
    with pytest.raises(LoadFailed, match="outside"):
        load(directory(tmp_path / "d", "st-cls", modules=modules))
    with pytest.raises(LoadFailed, match="gives 3 scores instead of one"):
        load(directory(tmp_path / "e", "nli"), task="text-ranking")
    with pytest.raises(LoadFailed, match="knows no option 'tusk'"):
        load(directory(tmp_path / "f", "nli"), tusk="x")


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}", (10).to_bytes(8, "little") + b'{"a":{}}  ']
)
def test_broken_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    if content.endswith(b"{}"):
        assert read_weights(path) == {}
        return
    with pytest.raises(LoadFailed, match="cannot be read as safetensors"):
        read_weights(path)


WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["the", "movie", "wolfgang", "[MASK]", "<mask>", "naïve", "東京", "😀", "\u00a0", "\t"]
        ),
        st.text(max_size=12),
    ),
    max_size=400,
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[TextEncoder]:
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("encoders")
    found = [read_directory(directory(folder, name)) for name in ("ner-bert", "ner-roberta")]
    return [TextEncoder(each, {"input_ids": "int64"}, Tokenizer.from_str) for each in found]


@given(WORDS, st.integers(4, 24))
@settings(max_examples=150, deadline=None)
def test_a_text_cut_before_it_is_encoded_has_the_same_tokens(
    encoders: list[TextEncoder], words: list[str], limit: int
) -> None:
    text = " ".join(words)
    for encoder in encoders:
        (windows,) = encoder.encode([Piece(text, limit=limit)])
        encoder._may_shorten = False
        (wanted,) = encoder.encode([Piece(text, limit=limit)])
        encoder._may_shorten = True
        assert windows[0].ids == wanted[0].ids and windows[0].offsets == wanted[0].offsets


def test_long_texts_are_cut_early(encoders: list[TextEncoder]) -> None:
    text = "the movie is good " * 25_000
    for encoder in encoders:
        assert len(encoder._shortened(Piece(text))) < 4_000
        assert encoder._shortened(Piece("x" * 50_000)) == "x" * 50_000, "there is no blank to cut at"


def test_requests_of_a_batch_fail_alone_and_answer_as_one_by_one(tmp_path: Path) -> None:
    model = load(directory(tmp_path, "textclass-single"))

    def request(*texts: bytes, **parameters: Any) -> InferRequest:
        return InferRequest("m", (tensor("text", np.array(texts, object)),), parameters=parameters)

    requests = [
        request(b"good", b"a terrible movie " * 5, top_k="null"),
        request(b"\xff"),
        request(b"bad " * 100, truncation=False),
        request(b"a book", top_k=2, timeout=5),
        request(b"a book", top_k="many"),
    ]
    together = model.answer(requests)
    assert [type(answer) for answer in together] == [Answer, InvalidInput, InvalidInput, Answer, InvalidInput]
    for one, many in zip(requests, together, strict=True):
        (alone,) = model.answer([one])
        if not isinstance(many, Answer):
            assert str(alone) == str(many)
            continue
        assert isinstance(alone, Answer)
        for got, want in zip(many.outputs["output"], alone.outputs["output"], strict=True):
            got, want = json.loads(got), json.loads(want)
            assert [row["label"] for row in got] == [row["label"] for row in want]
            assert np.allclose([row["score"] for row in got], [row["score"] for row in want], atol=1e-6)
    model.close()
