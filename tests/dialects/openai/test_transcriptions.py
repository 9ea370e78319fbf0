"""Speech to text by the unmodified ``openai`` client, and forms that are refused."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from speech_directories import sound, speech_cases, speech_directory

from salver.dialects.openai.transcription import parse_transcription, subtitles
from salver.encoding.bodies import HttpBody
from salver.testing.process import ServerProcess
from salver.words.errors import SalverError

WAV = sound(0.5)
KIND = b"multipart/form-data; boundary=line"


def form(**fields: str | bytes) -> HttpBody:
    """A form with the fields in their order; ``file`` is a file."""
    body = b""
    for name, value in fields.items():
        mark = b'; filename="a.wav"\r\ncontent-type: audio/wav' if name == "file" else b""
        data = value if isinstance(value, bytes) else value.encode()
        head = b'--line\r\ncontent-disposition: form-data; name="' + name.encode() + b'"' + mark
        body += head + b"\r\n\r\n" + data + b"\r\n"
    return HttpBody("", "", body + b"--line--\r\n", {b"content-type": KIND})


def test_a_form_is_read() -> None:
    body = form(
        file=WAV, model="whisper", language="de", response_format="srt", temperature="0", prompt="Salver"
    )
    request = parse_transcription(body, translates=False)
    assert (request.model, request.sound, request.language) == ("whisper", WAV, "de")
    assert request.prompt == "Salver"
    assert (request.format, request.has_times, request.translates) == ("srt", True, False)


REFUSED: dict[str, tuple[HttpBody, str]] = {
    "no form": (HttpBody("", "", b"{}", {b"content-type": b"application/json"}), "not multipart/form-data"),
    "no boundary": (
        HttpBody("", "", b"", {b"content-type": b"multipart/form-data"}), "Needs a boundary value"),
    "no file": (form(model="whisper"), "the form has no file"),
    "an empty file": (form(file=b"", model="whisper"), "the form has no file"),
    "no model": (form(file=WAV), "the form names no model"),
    "a field twice": (
        HttpBody("", "", form(model="a").body.replace(b"--line--\r\n", b"") + form(model="b").body,
                 {b"content-type": KIND}),
        "has it twice",
    ),
    "a format": (form(file=WAV, model="w", response_format="xml"), "'xml' is no format.*There are json"),
    "a long field": (form(file=WAV, model="w" * 5000), "longer than 4096 bytes"),
    "no text": (form(file=WAV, model=b"\xff"), "it is not UTF-8"),
    "an unknown field": (form(file=WAV, model="w", beam="5"), "the form has an unknown field"),
    "a temperature": (form(file=WAV, model="w", temperature="0.7"), "'0.7' is not supported"),
    "a stream": (form(file=WAV, model="w", stream="true"), "'true' is not supported"),
    "times of words": (form(file=WAV, model="w", **{"timestamp_granularities[]": "word"}), "'word' is not"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_forms_that_are_refused(case: str) -> None:
    body, text = REFUSED[case]
    with pytest.raises(SalverError, match=text):
        parse_transcription(body, translates=False)


def test_a_translation_takes_no_language() -> None:
    with pytest.raises(SalverError, match="a translation is into English"):
        parse_transcription(form(file=WAV, model="w", language="de"), translates=True)


def test_subtitles() -> None:
    parts = [
        {"id": 0, "start": 0.0, "end": 1.5, "text": " One."},
        {"id": 1, "start": 3661.0, "end": 3661.042, "text": " Two."},
    ]
    assert subtitles(parts, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne.\n\n01:01:01.000 --> 01:01:01.042\nTwo.\n"
    )
    assert subtitles([], "srt") == ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("heard")
    for name in ("asr-ctc", "asr-whisper"):
        speech_directory(folder, name)
    with ServerProcess([folder], folder.with_suffix(".log")) as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_the_client_gets_every_format(client: openai.OpenAI) -> None:
    case = next(case for case in speech_cases() if case["id"] == "asr-whisper/mono-0.5s-16k.wav")
    text = case["output"]["text"].strip()
    ask: Any = client.audio.transcriptions.create
    file = ("a.wav", WAV)
    assert ask(model="asr-whisper", file=file).text == text
    assert ask(model="asr-whisper", file=file, response_format="text").strip() == text
    verbose = ask(model="asr-whisper", file=file, response_format="verbose_json")
    assert (verbose.task, verbose.language) == ("transcribe", "und")
    assert verbose.duration == verbose.segments[-1].end
    assert "".join(part.text for part in verbose.segments).split() == verbose.text.split()
    assert " --> " in ask(model="asr-whisper", file=file, response_format="srt")
    vtt = ask(model="asr-whisper", file=file, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    assert ask(model="asr-ctc", file=file).text
    assert client.audio.translations.create(model="asr-whisper", file=file).text is not None
    assert ask(model="asr-whisper", file=file, prompt="Wolfgang").text != text


def test_the_client_is_told_what_is_wrong(client: openai.OpenAI) -> None:
    ask: Any = client.audio.transcriptions.create
    with pytest.raises(openai.NotFoundError, match="nobody"):
        ask(model="nobody", file=("a.wav", WAV))
    with pytest.raises(openai.BadRequestError) as caught:
        ask(model="asr-whisper", file=("a.wav", b"no sound at all"))
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="it has special tokens"):
        ask(model="asr-whisper", file=("a.wav", WAV), prompt="<|de|>")
    with pytest.raises(openai.BadRequestError, match="return_timestamps"):
        ask(model="asr-ctc", file=("a.wav", WAV), response_format="srt")
