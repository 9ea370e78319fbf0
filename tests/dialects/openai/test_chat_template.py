"""Chat templates in Hugging Face's form, and the limits of their sandbox."""

import pytest

from salver.dialects.openai.chat_template import ChatTemplate, of_tokenizer
from salver.words.errors import InvalidInput, LoadFailed

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.clause("TR-V5")
def test_a_template_makes_a_prompt():
    assert ChatTemplate(CHATML).render(HELLO) == (
        "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_has_the_tokens_the_tools_and_the_filters():
    text = (
        "{{ bos_token }}{{ tools | tojson }}{{ strftime_now('%Y') }}"
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
    )
    template = ChatTemplate(text, {"bos_token": "<s>"}, today=lambda form: f"<{form}>")
    assert template.render(HELLO, [{"name": "ö<"}]) == '<s>[{"name": "ö<"}]<%Y>Hello'
    assert ChatTemplate("{{ tools is none }}").render(HELLO) == "True"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nothing.at.all }}", "no attribute"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ 1 / 0 }}", "division"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
    ],
)
def test_what_a_template_raises_is_the_callers_to_know(text, says):
    with pytest.raises(InvalidInput, match="does not take these messages") as caught:
        ChatTemplate(text).render(HELLO)
    assert says in str(caught.value)
    assert caught.value.field == "messages"


def test_marks_for_training_mean_nothing():
    text = "{% for m in messages %} {%- generation -%} {{ m.content }} {%- endgeneration %};{% endfor %}"
    assert ChatTemplate(text).render(HELLO) == "Hello;Hi;"


def test_what_is_no_template_is_refused():
    with pytest.raises(LoadFailed, match=r"this\.jinja is not a chat template"):
        ChatTemplate("{% for %}", origin="this.jinja")


def test_a_template_without_jinja_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(LoadFailed, match=r"pip install 'salver\[openai\]'"):
        ChatTemplate("")


def test_templates_of_tokenizers():
    assert of_tokenizer({}) == ("", {})
    assert of_tokenizer({"chat_template": 5, "eos_token": None}) == ("", {})
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert of_tokenizer({"chat_template": several, "eos_token": "</s>"}) == ("d", {"eos_token": "</s>"})
    assert repr(ChatTemplate("", origin="o")) == "<ChatTemplate of o>"
