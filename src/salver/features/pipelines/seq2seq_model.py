"""Model of a Hugging Face directory that makes texts from texts: summaries, translations and others.

Texts of all requests of a batch whose settings are equal are read and answered together.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from salver.backends.protocol import Answer, run_alone
from salver.features.pipelines.generation import generate
from salver.features.pipelines.generation_files import (
    GenerationConfig,
    bounded,
    length_of,
    merged,
    settings_of,
)
from salver.features.pipelines.liveness import abandoned, is_abandoned
from salver.features.pipelines.parameters import PARAMETERS, GenerationParameters, from_request
from salver.features.pipelines.ports import EncoderDecoder
from salver.features.pipelines.tasks.scores import OUTPUT, TEXT, json_rows
from salver.features.pipelines.texts import Piece, TextEncoder, Truncation, decoded, grouped
from salver.features.pipelines.token_rules import GenerationSettings
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import HUGGING_FACE, InferRequest, Signature
from salver.words.tensor import Array

#: Key of an answer by its task.
KEYS: Final = {
    "summarization": "summary_text",
    "translation": "translation_text",
    "text2text-generation": "generated_text",
}
_BEAMS: Final = 4  # as transformers' pipelines have it
_MOST_ROWS: Final = 64  # texts times beams of a run
_MOST_TOKENS: Final = 8192  # that are read in a run


class _Job:
    """A request of a run."""

    __slots__ = ("encodings", "error", "request", "settings", "texts")

    def __init__(self, request: InferRequest) -> None:
        self.request = request
        self.error: SalverError | None = None
        self.settings: GenerationSettings | None = None
        self.encodings: list[Any] = []
        self.texts: dict[int, str] = {}


class Seq2SeqModel:
    """Encoder, decoder and tokenizer of a directory.

    Args:
        vocabulary: Number of tokens.
        most_tokens: Most tokens of an answer; None = the network has no limit.
        prefix: What goes before each text.
    """

    def __init__(
        self,
        network: EncoderDecoder,
        encoder: TextEncoder,
        task: str,
        config: GenerationConfig,
        vocabulary: int,
        *,
        most_tokens: int | None = None,
        prefix: str = "",
    ) -> None:
        self.signature = Signature((TEXT,), (OUTPUT,), True, HUGGING_FACE + task, _MOST_ROWS, converts=True)
        self._network = network
        self._encoder = encoder
        self._key = KEYS[task]
        self._kind = PARAMETERS[task]
        self._config = config
        self._vocabulary = vocabulary
        self._most_tokens = most_tokens
        self._prefix = prefix
        self._settings(GenerationParameters())

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        return run_alone(self, inputs)

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        jobs = [_Job(request) for request in requests]
        alike: defaultdict[GenerationSettings, list[tuple[_Job, int]]] = defaultdict(list)
        for job in jobs:
            try:
                settings = self._read(job)
                alike[settings] += [(job, row) for row in range(len(job.encodings))]
            except SalverError as error:
                job.error = error
        for settings, places in alike.items():
            self._answer_alike(settings, places)
        return [self._answer(job) for job in jobs]

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._network.close()

    def _read(self, job: _Job) -> GenerationSettings:
        """Tokenize the texts of a request; return how its answers are made. Raises InvalidInput."""
        parameters = from_request(job.request.parameters, self._kind)
        assert isinstance(parameters, GenerationParameters)
        settings = self._settings(parameters)
        cut: Truncation = "longest_first" if parameters.truncation else "no"
        texts = decoded("text", job.request.inputs[0].array)
        for found in self._encoder.encode([Piece(self._prefix + text, None, cut) for text in texts]):
            if isinstance(found, SalverError):
                raise found
            if not len(found[0]):
                raise InvalidInput(
                    "a text has no tokens", field="inputs", fix="Send a text that is not empty."
                )
            self._check_source(getattr(parameters, "src_lang", None), found[0])
            job.encodings.append(found[0])
        return settings

    def _check_source(self, name: str | None, encoding: Any) -> None:
        """Refuse a language that the tokenizer does not mark texts with."""
        if name is not None and self._encoder.id_of(name) not in (encoding.ids[0], encoding.ids[-1]):
            raise InvalidInput(
                f"parameters.src_lang {name[:40]!r} is not the language that tokenizer.json marks texts with",
                field="parameters.src_lang",
                fix="Save the tokenizer with that src_lang into a directory of its own.",
            )

    def _answer_alike(self, settings: GenerationSettings, places: Sequence[tuple[_Job, int]]) -> None:
        lengths = [len(job.encodings[row]) for job, row in places]
        most = max(1, _MOST_ROWS // settings.num_beams)
        for group in grouped(lengths, _MOST_TOKENS):
            for start in range(0, len(group), most):
                self._run(settings, [places[index] for index in group[start : start + most]])

    def _run(self, settings: GenerationSettings, places: Sequence[tuple[_Job, int]]) -> None:
        arrays = self._encoder.arrays([job.encodings[row] for job, row in places])
        states = self._network.encode({spec.name: arrays[spec.name] for spec in self._network.inputs})
        run = self._network.begin(states, arrays["attention_mask"], settings.num_beams)
        requests = [job.request for job, _ in places]
        texts = generate(run, len(places), settings, lambda row: is_abandoned(requests[row]))
        for (job, row), tokens in zip(places, texts, strict=True):
            if tokens is not None:
                job.texts[row] = self._encoder.decode(tokens, skips_special=True)

    def _answer(self, job: _Job) -> Answer | SalverError:
        if job.error is not None:
            return job.error
        if len(job.texts) < len(job.encodings):
            return abandoned(job.request)
        return Answer({"output": json_rows({self._key: job.texts[row]} for row in range(len(job.encodings)))})

    def _settings(self, parameters: GenerationParameters) -> GenerationSettings:
        """Return how texts are made. Raises InvalidInput."""
        config = merged(self._config, parameters)
        prompt = (config.start,)
        length = length_of(config, len(prompt))
        if parameters.max_length is None and parameters.max_new_tokens is None:
            length = min(length, self._most_tokens or length)
        length = bounded(length, self._most_tokens)
        if parameters.max_new_tokens is None and length <= len(prompt):
            raise InvalidInput("parameters.max_length must be at least 2", field="parameters.max_length")
        target = getattr(parameters, "tgt_lang", None)
        if target is not None:
            config = msgspec.structs.replace(config, forced_bos_token_id=self._language(target))
        return settings_of(config, prompt, length, self._vocabulary, beams=_BEAMS)

    def _language(self, name: str) -> int:
        token = self._encoder.id_of(name)
        if token < 0:
            raise InvalidInput(
                f"parameters.tgt_lang {name[:40]!r} is no token of this model",
                field="parameters.tgt_lang",
                fix="Use the model's own names of languages, for example deu_Latn or de_DE.",
            )
        return token
