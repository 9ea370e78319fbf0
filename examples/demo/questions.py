"""What is each model of the demo asked, and is the answer right?

Every question goes to a running server through the public API; the right answers are known
beforehand. It neither builds models nor starts servers.
"""

import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import data
import msgspec
import numpy as np

from salver.client import Client

Array = data.Array


class Answer(msgspec.Struct, frozen=True):
    """One row of the table.

    Attributes:
        milliseconds: Of one request, the middle one where several were sent.
        accuracy: As ``right/asked`` over a labelled sample.
    """

    model: str
    framework: str
    question: str
    answer: str
    milliseconds: float
    accuracy: str
    is_right: bool


class Asked:
    """Sends requests to one model and remembers how long each took."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._names: tuple[str, list[str]] | None = None
        self.times: list[float] = []

    async def __call__(self, values: Array) -> list[Array]:
        """The outputs, in the order of the model's metadata, for its only input."""
        if self._names is None:
            described = await self._client.metadata(self._model)
            self._names = described["inputs"][0]["name"], [o["name"] for o in described["outputs"]]
        source, results = self._names
        start = time.perf_counter()
        answer = await self._client.infer(self._model, {source: values})
        self.times.append((time.perf_counter() - start) * 1e3)
        return [answer[name] for name in results]

    def report(
        self, framework: str, question: str, answer: str, right: int, asked: int, enough: float = 1.0
    ) -> Answer:
        """The row of the table; ``enough`` is the share of right answers that the model must reach."""
        middle = float(np.median(self.times))
        is_right = right >= enough * asked
        return Answer(self._model, framework, question, answer, middle, f"{right}/{asked}", is_right)


async def scenes(ask: Asked) -> Answer:
    """Four photographs; ImageNet classes."""
    classes = data.categories()
    pictures = {"coffee": "espresso", "camera": "tripod", "china": "palace", "chelsea": "Egyptian cat"}
    found = {}
    for name in pictures:
        (chances,) = await ask(data.scene(data.PICTURES[name]))
        found[name] = classes[int(chances.argmax())], float(chances.max())
    right = sum(found[name][0] == label for name, label in pictures.items())
    label, chance = found["coffee"]
    return ask.report("PyTorch", "what is on coffee.png?", f"{label} ({chance:.2f})", right, 4)


async def paraphrases(ask: Asked) -> Answer:
    """Sentence pairs, text in: alike above 0.6, unrelated below 0.2."""
    pairs = [
        ("someone is eating food", "a person is eating bread", True),
        ("how do I reset my password?", "I forgot my login", True),
        ("how do I reset my password?", "someone is eating food", False),
        ("the cat sleeps on the sofa", "interest rates rose again in March", False),
    ]
    right, likeness = 0, []
    for one, other, alike in pairs:
        (vectors,) = await ask(np.array([one, other], dtype=object))
        value = float(vectors[0] @ vectors[1])
        likeness.append(value)
        right += value > 0.6 if alike else value < 0.2
    question = "forgot my login ~ reset password?"
    return ask.report("Python + ONNX", question, f"{likeness[1]:.2f} alike", right, len(pairs))


async def files(ask: Asked) -> Answer:
    """Real files of this installation; Magika must name every kind."""
    kinds = data.file_kinds()
    known = data.known_files()
    found = []
    for path, _ in known:
        (chances,) = await ask(data.ends_of_file(path))
        found.append(kinds[int(chances.argmax())])
    right = sum(kind == label for kind, (_, label) in zip(found, known, strict=True))
    path, _ = known[0]
    return ask.report("ONNX", f"what is {path.name}?", found[0], right, len(known))


async def tumours(ask: Asked) -> Answer:
    """The held-out third of the breast cancer set."""
    _, (features, labels) = data.tumours()
    (chances, *_) = await ask(features)
    benign = _positive(chances) > 0.5
    right = int((benign == labels).sum())
    word = "benign" if benign[0] else "malignant"
    return ask.report("LightGBM", "first held-out tumour: benign?", word, right, len(labels), 0.94)


async def wines(ask: Asked) -> Answer:
    """The held-out half of the wine set."""
    _, (features, labels) = data.wines()
    (chances, *_) = await ask(features)
    found = chances.argmax(axis=1)
    word = f"cultivar {found[0]} ({chances[0].max():.2f})"
    return ask.report("XGBoost", "which wine is this?", word, int((found == labels).sum()), len(labels), 0.93)


async def handwriting(ask: Asked) -> Answer:
    """The held-out half of the digits set."""
    _, (features, labels) = data.handwriting()
    (found, *_) = await ask(features)
    right = int((found.reshape(-1).astype(int) == labels).sum())
    return ask.report("scikit-learn", "which digit is this?", str(found.flat[0]), right, len(labels), 0.97)


async def tones(ask: Asked) -> Answer:
    """Pure tones; the loudest key must be the tone's."""
    heard = []
    for hertz in (440, 261.626, 329.628, 110):
        answer = await ask(data.tone(hertz))
        keys = next(output for output in answer if output.shape[-1] == 88)
        heard.append(data.note_name(int(keys.mean(axis=(0, 1)).argmax())))
    right = sum(note == wanted for note, wanted in zip(heard, ("A4", "C4", "E4", "A2"), strict=True))
    return ask.report("TensorFlow", "which note is 440 Hz?", heard[0], right, 4)


async def portraits(ask: Asked) -> Answer:
    """A portrait has a face, a cup of coffee and a rocket have none."""
    pictures = {"astronaut": True, "coffee": False, "rocket": False}
    scores = {}
    for name in pictures:
        answer = await ask(data.portrait(data.PICTURES[name]))
        logits = next(output for output in answer if output.shape[-1] == 1)
        scores[name] = float(1 / (1 + np.exp(-logits.max())))
    right = sum((scores[name] > 0.5) == face for name, face in pictures.items())
    found = f"{'yes' if scores['astronaut'] > 0.5 else 'no'} ({scores['astronaut']:.2f})"
    return ask.report("LiteRT", "is a face on astronaut.png?", found, right, 3)


#: By model, in the order in which they are asked.
QUESTIONS: dict[str, Callable[[Asked], Awaitable[Answer]]] = {
    "mobilenet": scenes,
    "sentences": paraphrases,
    "filetype": files,
    "notes": tones,
    "faces": portraits,
    "tumour": tumours,
    "wine": wines,
    "digits": handwriting,
}


async def ask_all(client: Client, without: Collection[str] = ()) -> list[Answer]:
    """Every question, one after another, except to the models named."""
    wanted = [(name, question) for name, question in QUESTIONS.items() if name not in without]
    return [await question(Asked(client, name)) for name, question in wanted]


def through_tritonclient(address: str) -> str:
    """One question more, over gRPC with NVIDIA's own client: the similarity of two sentences.

    Raises:
        ImportError: tritonclient is not installed.
    """
    import tritonclient.grpc as triton

    client: Any = triton.InferenceServerClient(address)
    described = client.get_model_metadata("sentences")
    text = triton.InferInput(described.inputs[0].name, [2], "BYTES")
    text.set_data_from_numpy(np.array([b"someone is eating food", b"a person is eating bread"], dtype=object))
    vectors = client.infer("sentences", [text]).as_numpy(described.outputs[0].name)
    client.close()
    return f"{float(vectors[0] @ vectors[1]):.2f}"


def _positive(chances: Array) -> Array:
    """The chance of class 1, from one column or from two."""
    return chances[:, 1] if chances.ndim == 2 and chances.shape[1] == 2 else chances.reshape(-1)
