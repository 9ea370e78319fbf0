"""Speech to text over OpenAI's routes: the form, the request to the model, and the formats of the answer.

The model is one that recognises speech, such as a Hugging Face directory of Whisper. Pure.
"""

from typing import Any, Final, Literal, cast, get_args

import msgspec
import numpy as np

from salver.dialects.openai.faults import openai_fault
from salver.encoding.bodies import HttpBody, HttpReply, media_type
from salver.encoding.json_text import dumps, loads
from salver.encoding.multipart import MULTIPART, FormPart, multipart
from salver.kernel.serving.ports import CodingCost
from salver.words.errors import InvalidInput, ModelFailed, SalverError, Unsupported
from salver.words.messages import InferRequest, InferResponse, Parameter, Signature
from salver.words.tensor import DataType, Tensor

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
_TASK: Final = "automatic-speech-recognition"
_FORMATS: Final = get_args(Format)
_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)
_LONGEST_FIELD: Final = 4096
_UNKNOWN_LANGUAGE: Final = "und"  # ISO 639-2: undetermined


class TranscriptionRequest(msgspec.Struct, frozen=True):
    """Form of ``POST /v1/audio/transcriptions`` or ``/v1/audio/translations``.

    Attributes:
        sound: The file.
        language: Language that is spoken; empty = the model finds out.
        prompt: What was said before, for names and spellings; empty = nothing.
        translates: The answer is English.
    """

    model: str
    sound: bytes
    language: str = ""
    format: Format = "json"
    translates: bool = False
    prompt: str = ""

    @property
    def has_times(self) -> bool:
        """Whether the answer tells when something was said."""
        return self.format in ("srt", "verbose_json", "vtt")


def parse_transcription(http: HttpBody, *, translates: bool) -> TranscriptionRequest:
    """Return the request in a form.

    Raises:
        InvalidInput: it is no form, or a field is missing, unknown or has a value that it cannot have.
        Unsupported: it asks for what no model here does.
    """
    kind = http.headers.get(b"content-type", b"").decode("latin-1")
    if media_type(http.headers) != MULTIPART.encode():
        raise InvalidInput(
            f"the content type is {kind[:100]!r}, not {MULTIPART}",
            field="content-type",
            fix="Send a form with the fields file and model.",
        )
    fields: dict[str, FormPart] = {}
    for part in multipart(bytes(http.content), kind, lambda text: InvalidInput(text, field="body")):
        name = part.name.removesuffix("[]")
        if name in fields and name != "timestamp_granularities":
            raise InvalidInput("the form has it twice", field=name[:100])
        fields[name] = part
    sound = fields.pop("file", None)
    if sound is None or not sound.data:
        raise InvalidInput("the form has no file", field="file", fix="Send the sound as the field file.")
    texts = {name: _text(part) for name, part in fields.items()}
    model = texts.pop("model", "")
    if not model:
        raise InvalidInput("the form names no model", field="model")
    format = texts.pop("response_format", "") or "json"
    if format not in _FORMATS:
        raise InvalidInput(
            f"{format[:100]!r} is no format", field="response_format", fix=f"There are {', '.join(_FORMATS)}."
        )
    language = texts.pop("language", "")
    if translates and language:
        raise InvalidInput("a translation is into English", field="language", fix="Leave it out.")
    prompt = texts.pop("prompt", "")
    _refuse_rest(texts)
    return TranscriptionRequest(
        model, bytes(sound.data), language, cast("Format", format), translates, prompt
    )


def _text(part: FormPart) -> str:
    if len(part.data) > _LONGEST_FIELD:
        raise InvalidInput(f"it is longer than {_LONGEST_FIELD} bytes", field=part.name[:100])
    try:
        return str(part.data, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput("it is not UTF-8", field=part.name[:100]) from error


def _refuse_rest(texts: dict[str, str]) -> None:
    """Refuse fields that would change the answer, and unknown ones; those that change nothing may stay."""
    without_effect = {
        "temperature": ("", "0", "0.0"),
        "stream": ("", "false", "False"),
        "timestamp_granularities": ("", "segment"),
        "chunking_strategy": ("", "auto"),
    }
    for name, text in texts.items():
        if name not in without_effect:
            raise InvalidInput("the form has an unknown field", field=name[:100])
        if text not in without_effect[name]:
            raise Unsupported(f"{text[:100]!r} is not supported", field=name, fix="Leave it out.")


class TranscriptionCodec(CodingCost[HttpBody]):
    """Codec of one request."""

    protocol = "openai"

    def __init__(self, request: TranscriptionRequest) -> None:
        self._request = request

    def weigh(self, body: HttpBody) -> int:
        """Return 0: the form has been read already."""
        return 0

    def decode(self, body: HttpBody, signature: Signature) -> InferRequest:
        """Return the request to the model. Raises InvalidInput if it does not recognise speech."""
        asked = self._request
        if signature.task != _TASK:
            raise InvalidInput(f"model '{asked.model}' does not recognise speech", field="model")
        parameters: dict[str, Parameter] = {}
        if asked.language:
            parameters["language"] = asked.language
        if asked.prompt:
            parameters["prompt"] = asked.prompt
        if asked.translates:
            parameters["task"] = "translate"
        if asked.has_times:
            parameters["return_timestamps"] = True
        sound = Tensor(signature.inputs[0].name, DataType.BYTES, np.array([asked.sound], object))
        return InferRequest(asked.model, (sound,), body.version, parameters=parameters)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return the text in the format that was asked for. Raises the error of the response."""
        if response.error is not None:
            raise response.error
        answer = loads(response.outputs[0].array[0])
        if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
            raise ModelFailed("the model gave no text")
        text, chunks = answer["text"], answer.get("chunks", [])
        match self._request.format:
            case "json":
                return HttpReply(200, dumps({"text": text.strip()}))
            case "text":
                return HttpReply(200, f"{text.strip()}\n".encode(), _TEXT)
            case "verbose_json":
                return HttpReply(200, dumps(self._verbose(text, segments(chunks))))
            case "srt" | "vtt" as format:
                return HttpReply(200, subtitles(segments(chunks), format).encode(), _TEXT)

    def _verbose(self, text: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        asked = self._request
        return {
            "task": "translate" if asked.translates else "transcribe",
            "language": asked.language or _UNKNOWN_LANGUAGE,
            "duration": parts[-1]["end"] if parts else 0.0,
            "text": text.strip(),
            "segments": parts,
        }

    def fault(self, error: SalverError) -> HttpReply:
        """Return OpenAI's error object."""
        return openai_fault(error)


def segments(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return OpenAI's segments for parts with their times; an end that is not known is the beginning.

    >>> segments([{"timestamp": [0.0, 1.5], "text": " Hello."}])
    [{'id': 0, 'start': 0.0, 'end': 1.5, 'text': ' Hello.'}]
    """
    found = []
    for number, chunk in enumerate(chunks):
        begin, end = chunk["timestamp"]
        begin = begin or 0.0
        if end is None:
            end = begin
        found.append({"id": number, "start": begin, "end": end, "text": chunk["text"]})
    return found


def subtitles(parts: list[dict[str, Any]], format: Literal["srt", "vtt"]) -> str:
    """Return SubRip or WebVTT (W3C) text for segments.

    >>> print(subtitles([{"id": 0, "start": 0.0, "end": 61.25, "text": " Hello."}], "srt"), end="")
    1
    00:00:00,000 --> 00:01:01,250
    Hello.
    """
    mark = "," if format == "srt" else "."
    blocks = []
    for part in parts:
        line = f"{_time(part['start'], mark)} --> {_time(part['end'], mark)}\n{part['text'].strip()}\n"
        if format == "srt":
            line = f"{part['id'] + 1}\n{line}"
        blocks.append(line)
    heading = "WEBVTT\n\n" if format == "vtt" else ""
    return heading + "\n".join(blocks)


def _time(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{mark}{rest % 1000:03}"
